"""Measurements behind the numbers in the README; a package, so that `peft.py` is not taken for the library."""
