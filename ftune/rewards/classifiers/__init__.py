"""Sequence classifiers at work: found, loaded, fed and pooled as they were trained."""
