"""What is in a data set: rows go through `Audit` one by one, and it keeps hashes and counters of them, never texts."""
