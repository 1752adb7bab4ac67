"""The parts of the benchmark of merging."""
