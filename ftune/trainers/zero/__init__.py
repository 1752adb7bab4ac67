"""ZeRO by DeepSpeed 0.19.8 under transformers' Trainer: how a process joins it, its steps, its state, whole weights.

DeepSpeed cuts what trains into flat pieces: stage 1 the optimiser's state with weights in fp32, stage 2 gradients too,
stage 3 the model's weights as well, whose tensors are empty then but around the products that need them.
"""
