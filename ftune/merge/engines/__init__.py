"""Tensor code of merging; imports torch."""
