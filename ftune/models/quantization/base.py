"""What every way to store frozen weights provides."""

from abc import abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec

from ftune.core.section import Location, Section


class Quantization(Section):
    """A way to store the base model's frozen weights."""

    @abstractmethod
    def loader_args(self, dtype: str) -> dict[str, object]:
        """Arguments of `from_pretrained`; `dtype` (bfloat16, float16, float32) is the run's own."""


class BitsAndBytes(Quantization):
    """What the bitsandbytes ways share: they need its package."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A missing bitsandbytes."""
        if find_spec("bitsandbytes") is None:
            yield ("type",), "needs the bitsandbytes package; pip install 'ftune[quantization]'"
