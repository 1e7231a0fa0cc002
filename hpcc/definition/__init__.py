"""Definition files: what they say. Pure."""
