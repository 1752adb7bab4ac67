"""Parts of the benchmark of training speed: settings, rows, each way to train, its clock, the table."""
