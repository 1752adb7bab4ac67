"""Ways to make one update of several: a file each."""
