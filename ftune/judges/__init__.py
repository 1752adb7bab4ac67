"""Judges: which of two answers to the same prompt is the better one, and how often each side wins."""
