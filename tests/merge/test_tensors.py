"""Files of tensors that are written and read one tensor at a time."""

import errno
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ftune.core.errors import ModelError
from ftune.merge.tensors import ShardWriter, stored_in

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@given(st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=12), st.integers(1, 300))
def test_what_is_written_is_read_and_files_keep_to_their_limit(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[torch.dtype, tuple[int, ...]]], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("written")
    tensors = {f"t{n}": (torch.randn(shape) * 9).to(dtype) for n, (dtype, shape) in enumerate(kinds)}
    writer = ShardWriter(folder, limit, len(tensors))
    for name, value in tensors.items():
        writer.write(name, value)
    writer.finish()
    files = sorted(folder.glob("*.safetensors"))
    for read in (
        {name: value for file in files for name, value in load_file(file).items()},
        {stored.name: stored.read() for file in files for stored in stored_in(file)},
    ):
        assert read.keys() == tensors.keys()
        assert all(
            torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in tensors.items()
        )
    for file in files:
        sizes = [stored.size for stored in stored_in(file)]
        assert sum(sizes) <= limit or sum(size > 0 for size in sizes) == 1
    if len(files) > 1:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        assert index["weight_map"] == {stored.name: file.name for file in files for stored in stored_in(file)}


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of this process may have 64 KiB at most."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_what_the_disk_refuses_is_raised_though_it_is_written_later(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 10**9, 4)
    writer.write("fits", torch.ones(2**10))
    writer.write("does not fit", torch.ones(2**15))
    with pytest.raises(OSError, match="File too large") as raised:
        writer.finish()
    assert raised.value.errno == errno.EFBIG
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_file_that_ends_early_is_told(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(100)}, file)
    (stored,) = stored_in(file)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelError, match="ends within 'a'"):
        stored.read()
    with pytest.raises(ModelError, match="is cut off"):
        stored_in(file)


def test_a_tensor_that_is_read_may_be_changed_and_its_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(100)}, file)
    (stored,) = stored_in(file)
    stored.read().zero_()
    assert torch.equal(stored.read(), torch.ones(100))


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"a": {"dtype": "F32", "shape": [null], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}}',
        b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
    ],
    ids=lambda header: header[:60].decode(),
)
def test_headers_whose_numbers_are_none(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(ModelError, match=r"model\.safetensors: .*header.*fetch it again"):
        stored_in(file)


def test_floats_of_8_bit_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="'a' is of type F8_E4M3, which cannot be merged into"):
        stored_in(tmp_path / "model.safetensors")
