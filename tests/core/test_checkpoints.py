"""Checkpoints against kills, damage and failing disks."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftune.core.checkpoints import (
    MANIFEST,
    STAGING,
    Found,
    commit,
    commit_folder,
    newest_valid,
    rotate,
    stage,
    stage_folder,
    verify,
    write_atomically,
    writing,
)
from ftune.core.errors import CheckpointError, StorageError

WEIGHTS = bytes(range(256)) * 40


def save(run_dir: Path, step: int, weights: bytes = WEIGHTS) -> Path:
    staging = stage(run_dir, step)
    (staging / "model.safetensors").write_bytes(weights)
    (staging / "rank_0").mkdir()
    (staging / "rank_0" / "rng.pth").write_bytes(b"rng" * step)
    commit(staging, run_dir / f"checkpoint-{step}", {"step": step, "world_size": 1})
    return run_dir / f"checkpoint-{step}"


def manifest_of(checkpoint: Path) -> dict[str, object]:
    return json.loads((checkpoint / MANIFEST).read_text())


# The plain way


def test_a_saved_checkpoint_is_found_with_its_facts(tmp_path: Path) -> None:
    save(tmp_path, 4)
    newest = save(tmp_path, 12)
    assert verify(newest) == []
    assert newest_valid(tmp_path) == Found(newest, 12, {"step": 12, "world_size": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-12", "checkpoint-4"]


def test_a_new_run_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_valid(tmp_path) == Found()
    assert newest_valid(tmp_path / "not there") == Found()


def test_the_manifest_lists_every_file(tmp_path: Path) -> None:
    manifest = manifest_of(save(tmp_path, 4))
    assert manifest["format"] == 1
    assert {name: entry["size"] for name, entry in manifest["files"].items()} == {
        "model.safetensors": len(WEIGHTS),
        "rank_0/rng.pth": 12,
    }


def test_files_get_the_mode_of_the_umask(tmp_path: Path) -> None:
    staging = stage(tmp_path, 1)
    (staging / "model.safetensors").write_bytes(WEIGHTS)
    (staging / "model.safetensors").chmod(0o600)
    before = os.umask(0o027)
    try:
        commit(staging, tmp_path / "checkpoint-1", {"step": 1})
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "checkpoint-1").iterdir()}
    assert modes == {"model.safetensors": 0o640, MANIFEST: 0o640}
    assert stat.S_IMODE((tmp_path / "checkpoint-1").stat().st_mode) == 0o750


def test_a_final_folder_is_committed_in_the_same_way(tmp_path: Path) -> None:
    staging = stage_folder(tmp_path / "adapter")
    (staging / "adapter_config.json").write_text("{}")
    commit_folder(staging, tmp_path / "adapter")
    assert verify(tmp_path / "adapter") == []


def test_what_a_killed_run_left_is_removed_by_the_next_save(tmp_path: Path) -> None:
    (stage(tmp_path, 4) / "half").write_bytes(b"half")
    assert list(stage(tmp_path, 8).iterdir()) == []
    assert [path.name for path in (tmp_path / STAGING).iterdir()] == ["checkpoint-8"]


# The same step saved twice


def test_the_same_content_is_kept(tmp_path: Path) -> None:
    inode = (save(tmp_path, 4) / "model.safetensors").stat().st_ino
    assert (save(tmp_path, 4) / "model.safetensors").stat().st_ino == inode
    assert not (tmp_path / STAGING).exists()


def test_other_content_replaces_a_valid_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 4)
    assert (save(tmp_path, 4, b"other") / "model.safetensors").read_bytes() == b"other"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_a_folder_without_manifest_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "mine").write_text("mine")
    assert verify(save(tmp_path, 4)) == []
    assert (tmp_path / "checkpoint-4.damaged" / "mine").read_text() == "mine"


def test_a_failed_swap_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 4)
    rename = Path.replace

    def fail_to_install(self: Path, target: Path) -> Path:
        if self.parent.name == STAGING and self.name == target.name == "checkpoint-4":
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail_to_install)
    with pytest.raises(StorageError, match="Input/output error"):
        save(tmp_path, 4, b"other")
    assert (newest_valid(tmp_path).path / "model.safetensors").read_bytes() == WEIGHTS


# Damage


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def zero_tail(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100] + bytes(100))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def link_elsewhere(path: Path) -> None:
    copy = path.with_name("copy")
    path.rename(copy)
    path.symlink_to(copy)


def rewrite(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


DAMAGE = {
    "bit flip": ("model.safetensors", flip_bit, "other content"),
    "tail of zeros": ("model.safetensors", zero_tail, "other content"),
    "one byte less": ("model.safetensors", truncate, "bytes"),
    "empty file": ("model.safetensors", rewrite(""), "bytes"),
    "missing file": ("rank_0/rng.pth", Path.unlink, "rank_0/rng.pth is missing"),
    "file is a link": ("model.safetensors", link_elsewhere, "not a regular file"),
    "unlisted optimizer": ("optimizer.pt", rewrite("evil"), "optimizer.pt was added later"),
    "no manifest": (MANIFEST, Path.unlink, "is missing"),
    "half a manifest": (MANIFEST, lambda path: os.truncate(path, 90), "not whole JSON"),
    "empty manifest": (MANIFEST, rewrite(""), "not whole JSON"),
    "manifest of zeros": (MANIFEST, rewrite("\0" * 300), "not whole JSON"),
    "manifest without end": (MANIFEST, rewrite("[" * 100_000), "not whole JSON"),
    "manifest is a list": (MANIFEST, rewrite("[1, 2]"), "not as ftune wrote it"),
    "manifest is a number": (MANIFEST, rewrite("12"), "not as ftune wrote it"),
    "manifest is null": (MANIFEST, rewrite("null"), "not as ftune wrote it"),
    "foreign manifest": (MANIFEST, rewrite('{"format": 1, "files": {}, "seal": 3}'), "not as ftune wrote it"),
    "manifest is a folder": (MANIFEST, lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    "step changed": (MANIFEST, lambda path: path.write_text(path.read_text().replace("12", "13", 1)), "not as ftune"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_the_one_before_is_used(tmp_path: Path, name: str) -> None:
    file, damage, problem = DAMAGE[name]
    good, bad = save(tmp_path, 4), save(tmp_path, 12)
    damage(bad / file)
    assert problem in " ".join(verify(bad))
    found = newest_valid(tmp_path)
    assert (found.path, found.step) == (good, 4)
    [(kept, problems)] = found.damaged
    assert kept == tmp_path / "checkpoint-12.damaged"
    assert problem in " ".join(problems)
    assert newest_valid(tmp_path) == Found(good, 4, {"step": 4, "world_size": 1})


@pytest.mark.parametrize("kind", ["empty folder", "file", "link", "dangling link", "copy of another step"])
def test_a_stray_checkpoint_is_set_aside(tmp_path: Path, kind: str) -> None:
    good, stray = save(tmp_path, 4), tmp_path / "checkpoint-9999"
    make = {
        "empty folder": stray.mkdir,
        "file": stray.touch,
        "link": lambda: stray.symlink_to(good),
        "dangling link": lambda: stray.symlink_to(tmp_path / "gone"),
        "copy of another step": lambda: shutil.copytree(good, stray),
    }
    make[kind]()
    found = newest_valid(tmp_path)
    assert found.path == good
    assert [path.name for path, _ in found.damaged] == ["checkpoint-9999.damaged"]


def test_damaged_checkpoints_are_numbered(tmp_path: Path) -> None:
    for _ in range(3):
        (tmp_path / "checkpoint-7").mkdir()
        newest_valid(tmp_path)
    names = ["checkpoint-7.damaged", "checkpoint-7.damaged-2", "checkpoint-7.damaged-3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_files_that_no_loader_takes_may_be_added(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 4)
    for name in ("notes.txt", "model-f16.gguf", ".DS_Store"):
        (checkpoint / name).write_text("later")
    assert verify(checkpoint) == []


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    staging = stage(tmp_path, 1)
    commit(staging, tmp_path / "checkpoint-1", {"files": {"../secret": {}}})
    assert verify(tmp_path / "checkpoint-1") == []
    assert manifest_of(tmp_path / "checkpoint-1")["files"] == {}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bit_changes_unseen(tmp_path: Path, data: st.DataObject) -> None:
    checkpoint = tmp_path / "checkpoint-4"
    if not checkpoint.exists():
        save(tmp_path, 4)
    path = data.draw(st.sampled_from(sorted(path for path in checkpoint.rglob("*") if path.is_file())))
    bit = data.draw(st.integers(0, path.stat().st_size * 8 - 1))
    original = path.read_bytes()
    content = bytearray(original)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        assert verify(checkpoint) != []
    finally:
        path.write_bytes(original)
    assert verify(checkpoint) == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_garbage_in_a_manifest_is_a_problem_not_a_crash(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    assert len(verify(tmp_path)) == 1


# Rotation


def test_rotation_goes_by_step_and_spares_what_is_protected(tmp_path: Path) -> None:
    for step in (9, 10, 100, 20):
        save(tmp_path, step)
    rotate(tmp_path, 2, protect=[tmp_path / "checkpoint-9"])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-100", "checkpoint-20", "checkpoint-9"]


def test_rotation_touches_only_its_own_folders(tmp_path: Path) -> None:
    save(tmp_path, 50)
    outside = save(tmp_path / "other", 3)
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-2.damaged").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    shutil.copy(outside / MANIFEST, tmp_path / "checkpoint-best" / MANIFEST)
    before = sorted(tmp_path.iterdir())
    rotate(tmp_path, 1)
    assert sorted(tmp_path.iterdir()) == before


def test_rotation_keeps_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least the newest"):
        rotate(tmp_path, 0)


# Failing disks


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EACCES, "make the folder writable"),
        (errno.EROFS, "make the folder writable"),
        (errno.EIO, "check the disk"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_failing_disk_costs_only_the_new_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, advice: str
) -> None:
    good = save(tmp_path, 4)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, "from the kernel", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StorageError) as caught:
            save(tmp_path, 12)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / STAGING / 'checkpoint-12'}: {os.strerror(number)}")
    assert ("GiB free" in message) == (number in {errno.ENOSPC, errno.EDQUOT})
    assert advice in message
    assert not (tmp_path / STAGING / "checkpoint-12").exists()
    assert newest_valid(tmp_path) == Found(good, 4, {"step": 4, "world_size": 1})


@pytest.mark.parametrize(
    "text",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
    ],
)
def test_a_full_disk_is_seen_through_native_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    staging = stage(tmp_path, 1)
    with pytest.raises(StorageError, match="No space left on device"), writing(staging):
        raise RuntimeError(text)
    assert not staging.exists()


@pytest.mark.parametrize("error", [ValueError("a bug"), ConnectionResetError(104, "reset")])
def test_other_errors_pass_and_give_the_space_back(tmp_path: Path, error: Exception) -> None:
    staging = stage(tmp_path, 1)
    with pytest.raises(type(error)), writing(staging):
        raise error
    assert not staging.exists()


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STAGING).symlink_to(tmp_path)
    for use in (lambda: stage(tmp_path / "run", 1), lambda: newest_valid(tmp_path / "run")):
        with pytest.raises(CheckpointError, match="symbolic link"):
            use()
    staging = stage(tmp_path, 2)
    (staging / "model.safetensors").symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        commit(staging, tmp_path / "checkpoint-2", {"step": 2})


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StorageError, match="Not a directory"):
        stage(tmp_path / "run", 1)


# Small files


def test_a_small_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    for content in ("old", "new — ü", b"\0bytes"):
        write_atomically(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.json"
    write_atomically(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(StorageError, match=r"data\.json: No space left"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
