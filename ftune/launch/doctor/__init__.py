"""`ftune doctor`: what this machine has, what will not work on it, and what to do.

One file a subject. Each has `gather`, which looks at the machine and gives facts, and `judge`, a pure function from
facts to findings, so that machines that are not here can be tested. `checkup` runs them all at once.
"""
