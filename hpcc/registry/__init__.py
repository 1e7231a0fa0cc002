"""Talking to registries. Knows no cache and no settings."""
