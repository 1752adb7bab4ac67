"""Natural-language tasks over columns (FLAN, arXiv:2109.01652): template sets, label words, and what a row is asked."""
