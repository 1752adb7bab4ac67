"""What makes training fast without changing what it computes: flat batches, fused loss, folded adapters, compiled layers.

Each part says by itself whether it is exact on a model, and why not; the trainers switch it on.
"""
