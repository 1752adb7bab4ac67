"""Trained biases as an adapter: offsets beside frozen modules."""
