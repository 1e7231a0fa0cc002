"""Definition files, Dockerfiles and images to a SIF or a sandbox."""
