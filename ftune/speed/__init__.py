"""What makes training fast and changes no result: flat batches, fused loss, folded adapters, compiled layers.

And what makes it small at little cost: checkpoints that keep a part of a layer.

Each part says by itself whether it is exact on a model, and why not; the trainers switch it on. Products in FP8 are the
one part that is not exact, and only there where a recipe asks for it.
"""
