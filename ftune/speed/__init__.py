"""What makes training fast and changes no result: flat batches, fused loss, folded adapters, compiled layers.

Each part says by itself whether it is exact on a model, and why not; the trainers switch it on. Products in FP8 are the
one part that is not exact, and only there where a recipe asks for it.
"""
