"""Row formats, one file each: a class with `type`, `keys` and `to_example`. `detect.py` finds the one that fits."""
