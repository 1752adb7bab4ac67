"""Rollout engines at work: what the files above are opened as. Heavy packages are imported here and only here."""
