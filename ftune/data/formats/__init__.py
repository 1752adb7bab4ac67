"""Row formats, one file each: a class with `type`, `keys` and `to_example`. `detect.py` finds the one that fits.

What several formats read is read in one place: lists of turns in `chat.py`, tools in `tools.py`, a question in columns
of text in `exchange.py`, two answers to one prompt in `sides.py`, lists in cells of tables in `cells.py`.
"""
