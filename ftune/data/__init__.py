"""Rows to tokens: read files, understand rows, render, mask, tokenise, check, pack. Imports nothing heavy."""
