"""What backends are made of where it needs torch: only loaded when a run computes."""
