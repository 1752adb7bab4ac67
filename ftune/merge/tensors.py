"""Safetensors files read and written one tensor at a time, so that a model never has to be in memory.

The format: eight bytes with the length of a JSON header, the header (dtype, shape and place of each tensor), and the
tensors' bytes. A header may end in spaces, which is how a file is written whose tensors are not known beforehand.
"""

import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.checkpoints import storage_errors
from ftune.core.errors import ModelError

if TYPE_CHECKING:
    import torch

TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""Dtypes of safetensors by torch's names; but for floats of 8 bit, with which torch 2.13 does not compute."""

NAMES = {torch_name: name for name, torch_name in TORCH_NAMES.items()}

LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the format."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that lies in a file."""

    file: Path
    name: str
    dtype: str
    """As safetensors names it: BF16, F32, ..."""
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""
    size: int
    """Bytes."""

    @property
    def numel(self) -> int:
        """Its values."""
        return math.prod(self.shape)

    def read(self) -> "torch.Tensor":
        """The tensor itself, in its own dtype, in memory of its own."""
        import torch

        dtype: torch.dtype = getattr(torch, TORCH_NAMES[self.dtype])
        if not self.size:
            return torch.empty(self.shape, dtype=dtype)
        content = _memory(self.size)
        with storage_errors(self.file), self.file.open("rb", buffering=0) as opened:
            opened.seek(self.start)
            view, filled = memoryview(content), 0
            while count := opened.readinto(view[filled:]):  # a call reads 2 GiB at most
                filled += count
        if filled != self.size:
            raise ModelError(f"{self.file}: ends within '{self.name}'; the file is not whole, fetch it again")
        return torch.frombuffer(content, dtype=dtype).reshape(self.shape)

    def expect(self) -> None:
        """Let the system fetch it from the disk while something else is computed."""
        if hasattr(os, "posix_fadvise"):
            with self.file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), self.start, self.size, os.POSIX_FADV_WILLNEED)


def _memory(size: int) -> mmap.mmap:
    """Memory of its own for a tensor; in large pages where the system has them, which are made far sooner."""
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def stored_in(file: Path) -> list[Stored]:
    """The tensors of a file, in the order of their bytes. Raises ModelError for a file that is not whole."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 0 < length <= min(LONGEST_HEADER, size - 8):
                raise ModelError(f"{file}: is cut off or no safetensors file; fetch it again")
            header: dict[str, Any] = dict(json.loads(opened.read(length)))
    except (ValueError, TypeError, RecursionError):
        raise ModelError(f"{file}: is no safetensors file (its header cannot be read); fetch it again") from None
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror or error}") from None
    header.pop("__metadata__", None)
    found = sorted(
        (_stored(file, name, about, 8 + length) for name, about in header.items()), key=lambda one: one.start
    )
    if (end := max((one.start + one.size for one in found), default=0)) > size:
        raise ModelError(f"{file}: is cut off ({size:,} bytes of {end:,}); fetch it again")
    return found


def _stored(file: Path, name: str, about: Mapping[str, Any], first: int) -> Stored:
    try:
        start, end = about["data_offsets"]
        one = Stored(file, name, str(about["dtype"]), tuple(about["shape"]), first + start, end - start)
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{file}: its header is broken at '{name}'; fetch it again") from None
    numbers = (*one.shape, one.start, one.size)
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or one.start < first:
        raise ModelError(f"{file}: its header is broken at '{name}'; fetch it again")
    if one.dtype not in TORCH_NAMES:
        raise ModelError(f"{file}: '{name}' is of type {one.dtype}, which cannot be merged into")
    if one.size != math.prod(one.shape) * bytes_of(one.dtype):
        raise ModelError(f"{file}: '{name}' has not the size of its shape; fetch it again")
    return one


def bytes_of(dtype: str) -> int:
    """Bytes of one value of a dtype of safetensors."""
    return {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}.get(dtype, 1)


class ShardWriter:
    """Writes tensors as they come into `model-00001-of-0000N.safetensors` and their index, or into one file.

    A tensor is written while the next one is computed, and put on the disk while the one after it is written.
    """

    def __init__(self, folder: Path, max_shard_bytes: int, tensors: int) -> None:
        """`tensors` is how many are expected at most: it decides how much room a header gets."""
        self._folder, self._limit = folder, max_shard_bytes
        self._room = 4096 + 320 * tensors
        self._shards: list[_Shard] = []
        self._writes, self._syncs = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._written: Future[None] | None = None
        self._synced: list[Future[None]] = []

    def write(self, name: str, tensor: "torch.Tensor") -> None:
        """Append a tensor, which must not be changed any more. What the disk refuses may be raised at the next call.

        It goes into a new file where the current one would become too large, or its place would not suit its dtype.
        """
        self._wait()
        size, width = tensor.numel() * tensor.element_size(), tensor.element_size()
        filled = self._shards[-1].filled if self._shards else 0
        if not self._shards or (filled and filled + size > self._limit) or filled % width:
            self._end_shard()
            self._shards.append(_Shard(self._folder / f"{len(self._shards)}.part", self._room))
        shard = self._shards[-1]
        shard.enter(name, tensor)
        self._written = self._writes.submit(self._append, shard, tensor)

    def finish(self) -> None:
        """Write the headers and, for several files, the index that transformers reads."""
        self._wait()
        self._end_shard()
        for synced in self._synced:
            synced.result()
        self._writes.shutdown()
        self._syncs.shutdown()
        count = len(self._shards)
        if count == 1:
            self._shards[0].file.replace(self._folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(self._shards, start=1):
            name = f"model-{number:05}-of-{count:05}.safetensors"
            shard.file.replace(self._folder / name)
            weight_map |= dict.fromkeys(shard.header, name)
        index = {"metadata": {"total_size": sum(shard.filled for shard in self._shards)}, "weight_map": weight_map}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _append(self, shard: "_Shard", tensor: "torch.Tensor") -> None:
        shard.append(tensor)
        self._synced.append(self._syncs.submit(shard.sync))

    def _wait(self) -> None:
        """Until the last tensor is written, so that no more than one waits in memory."""
        if self._written is not None:
            self._written.result()

    def _end_shard(self) -> None:
        if self._shards:
            self._shards[-1].write_header()
            self._synced.append(self._syncs.submit(self._shards[-1].close))


class _Shard:
    def __init__(self, file: Path, room: int) -> None:
        self.file, self._room = file, room
        self.header: dict[str, dict[str, object]] = {}
        self.filled = 0
        self._opened = file.open("wb", buffering=0)
        self._opened.seek(8 + room)

    def enter(self, name: str, tensor: "torch.Tensor") -> None:
        """Give a tensor its place, behind the others."""
        end = self.filled + tensor.numel() * tensor.element_size()
        about = {"dtype": NAMES[str(tensor.dtype).removeprefix("torch.")], "shape": list(tensor.shape)}
        self.header[name] = {**about, "data_offsets": [self.filled, end]}
        self.filled = end

    def append(self, tensor: "torch.Tensor") -> None:
        """Write its content."""
        import torch

        flat = tensor.detach().contiguous().reshape(-1)
        if flat.numel():
            self._put(flat.view(torch.uint8).numpy())

    def write_header(self) -> None:
        """At the beginning, once all tensors are written."""
        header = json.dumps({"__metadata__": {"format": "pt"}, **self.header}, separators=(",", ":")).encode()
        if len(header) > self._room:
            raise ModelError(f"{self.file}: the names of its tensors need {len(header)} bytes, {self._room} were kept")
        self._opened.seek(0)
        self._put(self._room.to_bytes(8, "little") + header.ljust(self._room))

    def sync(self) -> None:
        """Have on the disk what is written so far."""
        os.fsync(self._opened.fileno())

    def close(self) -> None:
        """To be done last."""
        self.sync()
        self._opened.close()

    def _put(self, content: Any) -> None:
        view = memoryview(content)
        while view:  # a call writes 2 GiB at most
            view = view[self._opened.write(view) :]


def order_of(stored: Mapping[str, Stored]) -> Iterator[Stored]:
    """Tensors in the order in which they lie on the disk, file after file."""
    yield from sorted(stored.values(), key=lambda one: (one.file, one.start))
