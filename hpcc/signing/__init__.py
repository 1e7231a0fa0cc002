"""Signing SIFs and verifying them: keys, the two forms of signatures, and what they are put on."""
