"""Parts of the benchmark of backends."""
