"""Readers, one file a kind of source: bytes to rows with their places, and one-line causes for damage."""
