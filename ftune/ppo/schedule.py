"""The learning rate over the iterations."""

import math


def learning_rate_factor(iteration: int, iterations: int, warmup: int, schedule: str) -> float:
    """What the peak learning rate is multiplied by in an iteration (from 0); it never gets to 0."""
    if iteration < warmup:
        return (iteration + 1) / (warmup + 1)
    progress = (iteration - warmup) / max(iterations - warmup, 1)
    return {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}[schedule]
