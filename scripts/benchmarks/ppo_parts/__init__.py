"""The parts of the benchmark of PPO."""
