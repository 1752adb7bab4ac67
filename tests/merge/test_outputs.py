"""Where a merged model may be written to, and where not."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.merge.conftest import Refused, Run, a_run


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("adapter/merged", "is inside of adapter, which is read"),
        ("adapter", "is adapter, which is read"),
        ("base/merged", "is inside of base, which is read"),
        (".", ". holds base, which is read"),
        ("file", "file is a file; give a folder"),
        ("file/merged", "file is a file; give a folder"),
        ("full", "full is not empty and holds no merged model"),
        (None, "say where the model goes with --output FOLDER"),
    ],
)
def test_outputs(refused: Refused, base: Path, tmp_path: Path, output: str | None, said: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note.txt").write_text("mine")
    assert said in refused("adapter", "--base", "base", output=output)
    assert said in refused("adapter", "--base", "base", "--overwrite", output=output)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; half of what the model needs."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", "size=64k", "none", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*words: str) -> None:
    mounted = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")


def test_a_disk_that_is_too_small_or_may_not_be_written(refused: Refused, disk: Path) -> None:
    said = refused("adapter", output="disk/merged", code=74)
    assert "needs 0.1 MiB" in said
    assert "are free" in said
    _mount("-o", "remount,ro", str(disk))
    assert "disk may not be written" in refused("adapter", output="disk/new/merged")
    assert list(disk.iterdir()) == []


def test_an_empty_folder_or_a_link_to_one_is_an_output(ftune: Run, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "disk/large").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/large")
    for _ in range(2):
        assert ftune("merge", "adapter", "--output", "link", "--no-verify", "--overwrite").code == 0
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "disk/large/model.safetensors").is_file()
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["large"]


def test_a_run_s_own_place_may_be_a_link(ftune: Run, adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "disk/large").mkdir(parents=True)
    (a_run(tmp_path / "run", adapter, tiny_model) / "merged").symlink_to("../disk/large")
    done = ftune("merge", "run", "--no-verify")
    assert done.code == 0, done.err
    assert (tmp_path / "run/merged").is_symlink()
    assert (tmp_path / "disk/large/model.safetensors").is_file()


def test_names_in_any_letters(ftune: Run, adapter: Path) -> None:
    adapter.rename("mise à jour 🙂")
    done = ftune("merge", "mise à jour 🙂", "--output", "новая 🙂/модель", "--no-verify")
    assert done.code == 0, done.err
    assert Path("новая 🙂/модель/model.safetensors").is_file()


def test_exports_whose_place_is_taken(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "out/merged-int8").mkdir(parents=True)
    (tmp_path / "out/merged-int8/note.txt").write_text("mine")
    assert "out/merged-int8 is not empty" in refused("adapter", "--quantize", "int8")
    (tmp_path / "out/gguf").write_text("mine")
    assert "out/gguf is a file, where a folder is needed" in refused("adapter", "--gguf", "f16")
    (tmp_path / "out/gguf").unlink()
    (tmp_path / "out/gguf").mkdir()
    for name in ("out-f16.gguf", "Modelfile"):
        (tmp_path / "out/gguf" / name).write_text("mine")
        assert f"out/gguf/{name} is there; --overwrite replaces it" in refused("adapter", "--gguf", "f16")
        (tmp_path / "out/gguf" / name).unlink()
