"""What a backend and the rest of a recipe cannot do together."""

from collections.abc import Mapping

from ftune.backends.base import Backend
from ftune.peft.base import Feature


def check_together(backend: Backend, method: Mapping[Feature, str], optimizer: str, quantization: str) -> None:
    """Raises ValueError, beginning with the key, for what a backend does not take.

    `method` is what the PEFT method does not go with.
    """
    for way in backend.shards():
        if way in method:
            raise ValueError(f"backend.type: {method[way]}")
    limits = backend.limits()
    for key, value in (("optim.optimizer", optimizer), ("model.quantization", quantization)):
        if value in limits:
            raise ValueError(f"{key}: '{value}' with 'backend: {backend.name}': {limits[value]}")
