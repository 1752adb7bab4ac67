"""What makes training fast without changing what it computes: batches without padding and the attention they need.

Each part says by itself whether it is exact on a model, and why not; the trainers switch it on.
"""
