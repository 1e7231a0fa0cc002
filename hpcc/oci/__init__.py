"""OCI's formats, pure: references, digests, platforms, manifests, image configs, and layers."""
