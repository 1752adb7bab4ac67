"""Tensors of a model on their way into a GGUF file, some rows at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

from ftune.core.errors import ModelError
from ftune.merge.tensors import Stored, bytes_of

PIECE_NUMBERS = 2**22
"""Numbers that are in memory at once: 16 MiB in fp32, and a few times that while they are quantised."""

FLOATS = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A tensor of a file, read and converted only when it is written.

    It has what gguf.GGUFWriter.write_tensor_data (0.19) asks of an array: `nbytes` and `tofile`.
    """

    name: str
    """Its name in GGUF."""
    source: Stored
    kind: GGMLQuantizationType
    plus: float = 0.0
    """Added to every number."""
    pairs: int = 0
    """Rows of a head whose two halves become neighbours, row by row; 0 for none."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file, its padding not counted."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.source.shape) // int(block) * int(size)

    def tofile(self, file: BinaryIO) -> None:
        """Write it. Raises ModelError for a number that the kind cannot hold."""
        for piece in self._pieces():
            values = piece.read().float()
            if self.pairs:
                halves = values.reshape(-1, 2, self.pairs // 2, *values.shape[1:])
                values = halves.transpose(1, 2).reshape(values.shape)
            if self.plus:
                values = values + self.plus
            file.write(self._converted(values).data.cast("B"))  # numpy's own `tofile` does not say why a disk refuses

    def _converted(self, values: torch.Tensor) -> np.ndarray:
        if self.kind not in FLOATS:
            return np.ascontiguousarray(quantize(values.numpy(), self.kind))
        converted = values.to(FLOATS[self.kind]).contiguous()
        if self.kind == GGMLQuantizationType.F16 and not bool(torch.isfinite(converted).all()):
            raise ModelError(f"gguf: '{self.name}' has numbers above the largest of f16, 65,504; choose kind bf16")
        return converted.reshape(-1).view(torch.uint8).numpy()

    def _pieces(self) -> Iterator[Stored]:
        rows, *rest = self.source.shape
        width = math.prod(rest)
        at_once = max(1, PIECE_NUMBERS // width)
        if self.pairs:
            at_once = max(1, at_once // self.pairs) * self.pairs
        row_bytes = width * bytes_of(self.source.dtype)
        for first in range(0, rows, at_once):
            count = min(at_once, rows - first)
            start = self.source.start + first * row_bytes
            yield replace(self.source, shape=(count, *rest), start=start, size=count * row_bytes)
