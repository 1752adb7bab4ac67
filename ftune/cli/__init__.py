"""The command line: parse, load, call, print. No logic and nothing heavy."""
