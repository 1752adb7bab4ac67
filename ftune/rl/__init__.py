"""The mathematics of PPO and of losses without logits: pure functions of tensors, no models, files or recipes.

Shapes: B sequences, T response tokens (padded on the right), N tokens of a flat list, V vocabulary, D hidden. A `mask`
is 1.0 where a response token is real and 0.0 behind the end; what stands there never changes a result.
"""
