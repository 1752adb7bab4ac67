"""Bottleneck adapters as a tuner of peft."""
