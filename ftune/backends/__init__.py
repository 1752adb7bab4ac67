"""Where a run computes: one file a backend, each turned into an accelerate configuration."""
