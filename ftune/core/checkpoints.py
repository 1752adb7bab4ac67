"""Folders that survive a kill at any moment: staged, hashed, synced, then renamed into place.

Nothing is ever written into a folder that a reader could find. A checkpoint grows in `.staging`, gets its manifest
`ftune.json` (sizes and xxh3-128 hashes of all files) as the last file, and appears under its name by one rename. So a
folder called `checkpoint-N` is either complete or was damaged afterwards, and the manifest tells which.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import xxhash

from ftune.core.errors import CheckpointError, StorageError
from ftune.core.held import held_by_another, hold, in_turn, let_go

MANIFEST = "ftune.json"
STAGING = ".staging"
DOOMED = "removed-"
FORMAT = 1
PIECE_BYTES = 2**20
SETTLED_AT_ONCE = 4
FULL_BYTES = 2**20
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

LOADABLE = {".bin", ".json", ".pkl", ".pt", ".pth", ".safetensors"}
"""An unlisted file with one of these endings could be picked up by a loader, so it makes a checkpoint invalid."""


@dataclass(frozen=True)
class Found:
    """The newest complete checkpoint of a run, and what had to be passed over to find it."""

    path: Path | None = None
    step: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    damaged: list[tuple[Path, list[str]]] = field(default_factory=list)
    """Each newer checkpoint that was set aside: where it is kept now, and its problems in words."""


def staged(run_dir: Path, step: int) -> Path:
    """Where checkpoint `step` grows."""
    return run_dir / STAGING / f"checkpoint-{step}"


def stage(run_dir: Path, step: int) -> Path:
    """An empty folder in which checkpoint `step` is to be written; see `stage_folder`."""
    return stage_folder(run_dir / f"checkpoint-{step}")


def stage_folder(target: Path) -> Path:
    """An empty folder in which `target` is to be written: `.staging/NAME` beside it.

    What a killed run left in `.staging` is removed first, and so is what this process was writing there: a process
    writes one folder at a time. What another process is writing beside it stays. Raises CheckpointError where another
    one is writing the same.
    """
    root = _staging_of(target.parent)
    staging = root / target.name
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with in_turn(target.parent):
            if held_by_another(staging):
                raise CheckpointError(f"{target}: another process is writing it; wait until that ends, or stop it")
            for left in [left for left in root.iterdir() if not held_by_another(left)]:
                let_go(left)
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            staging.mkdir(parents=True)
            hold(staging)
    return staging


@contextmanager
def writing(staging: Path) -> Iterator[None]:
    """Guard the writing of a staged folder: on a failure its space is given back at once.

    Raises StorageError for everything that the disk is to blame for, also where a native writer hides it.
    """
    try:
        with storage_errors(staging):
            yield
    except Exception:
        let_go(staging)
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):
            staging.parent.rmdir()
        raise


def commit(staging: Path, target: Path, facts: dict[str, object]) -> None:
    """Make the staged folder durable and rename it to `target`, on the same file system.

    `facts` (step, world size, hashes of recipe and data) go into the manifest. A valid `target` with the same content
    is kept, a valid one with other content is replaced, and a damaged one is set aside.
    """
    with writing(staging):
        folders, files = _tree(staging)
        if odd := [name for name, path in files.items() if not _is_regular(path)]:
            raise CheckpointError(
                f"{staging}: not regular files: {', '.join(odd)}; a checkpoint holds no links or pipes"
            )
        names, mode = [name for name in files if name != MANIFEST], 0o666 & ~_umask()
        with ThreadPoolExecutor(SETTLED_AT_ONCE) as threads:  # hashing, reading and syncing let the others run
            listed = dict(zip(names, threads.map(lambda name: _settle(files[name], mode), names), strict=True))
        content = {"format": FORMAT, **facts, "files": listed}
        _write_synced(staging / MANIFEST, json.dumps({**content, "seal": _seal(content)}, indent=1).encode())
        for folder in folders:
            folder.chmod(0o777 & ~_umask())
            _sync_folder(folder)
        with in_turn(target.parent):
            _install(staging, target)
    let_go(staging)


def commit_folder(staging: Path, target: Path) -> None:
    """`commit` for a final result, such as an adapter or a merged model."""
    commit(staging, target, {})


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace the small file `path` as a whole: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with storage_errors(path):
            _write_synced(temporary, content.encode() if isinstance(content, str) else content)
            temporary.replace(path)
            _sync_folder(path.parent)
    except Exception:
        with suppress(OSError):
            temporary.unlink()
        raise


def verify(checkpoint: Path) -> list[str]:
    """What is wrong with a committed folder, in words; empty when every byte is as it was written.

    Files that were added later are no fault unless a loader could take them for a part of the checkpoint.
    """
    try:
        if checkpoint.is_symlink() or not checkpoint.is_dir():
            return ["is not a real folder"]
        manifest = _manifest(checkpoint)
        named = _step_of(checkpoint)
        if named is not None and manifest.get("step", named) != named:
            return [f"holds step {manifest['step']}, not the step in its name"]
        return _differences(_tree(checkpoint)[1], manifest["files"])
    except OSError as error:
        name = Path(error.filename).name if isinstance(error.filename, str) else "a file"
        return [f"{name} cannot be read: {error.strerror or error}"]
    except _BrokenManifestError as error:
        return [str(error)]


def newest_valid(run_dir: Path) -> Found:
    """The complete checkpoint with the highest step; damaged ones on the way are renamed to `NAME.damaged` and kept.

    A checkpoint that was complete when its run was killed, but not yet renamed, is put into place first.
    """
    damaged: list[tuple[Path, list[str]]] = []
    with storage_errors(run_dir):
        for _, staged in _numbered(_staging_of(run_dir)):
            if not verify(staged):
                _install(staged, run_dir / staged.name)
        for step, folder in reversed(_numbered(run_dir)):
            problems = verify(folder)
            if not problems:
                return Found(folder, step, facts_of(folder), damaged)
            damaged.append((_set_aside(folder), problems))
    return Found(damaged=damaged)


def facts_of(checkpoint: Path) -> dict[str, Any]:
    """What was said of a committed folder when it was written; nothing where its manifest is damaged."""
    try:
        return {key: value for key, value in _manifest(checkpoint).items() if key not in {"format", "files"}}
    except (OSError, _BrokenManifestError):
        return {}


def rotate(run_dir: Path, keep: int, protect: Collection[Path] = ()) -> None:
    """Remove all but the `keep` newest checkpoints by step, and those in `protect`.

    Only folders named `checkpoint-N` that hold a manifest are ever removed. Each leaves its name by one rename before
    anything in it is deleted, so a kill leaves no half checkpoint behind.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; at least the newest checkpoint has to stay")
    protected = {path.resolve() for path in protect}
    ours = [folder for _, folder in _numbered(run_dir) if (folder / MANIFEST).is_file()]
    staging = _staging_of(run_dir)
    with storage_errors(run_dir):
        for leftover in staging.glob(f"{DOOMED}*"):
            _delete(leftover)
        for folder in ours[:-keep]:
            if folder.resolve() not in protected:
                staging.mkdir(exist_ok=True)
                _delete(folder.replace(_doomed(folder)))


class _BrokenManifestError(Exception):
    """The manifest is missing or is not what `commit` wrote."""


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        sealed = isinstance(manifest, dict) and manifest.pop("seal", None) == _seal(manifest)
    except FileNotFoundError:
        raise _BrokenManifestError(f"{MANIFEST} is missing") from None
    except (ValueError, RecursionError):
        raise _BrokenManifestError(f"{MANIFEST} is not whole JSON") from None
    if not sealed or not isinstance(manifest.get("files"), dict):
        raise _BrokenManifestError(f"{MANIFEST} is not as ftune wrote it")
    if manifest.get("format") != FORMAT:
        raise _BrokenManifestError(f"{MANIFEST} has format {manifest.get('format')}; this ftune reads format {FORMAT}")
    return dict(manifest)


def _seal(content: dict[str, Any]) -> str:
    """A hash of the manifest itself, so that no bit of it can change unseen."""
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def _differences(found: dict[str, Path], listed: dict[str, Any]) -> list[str]:
    problems = []
    for name, entry in listed.items():
        path = found.get(name)  # names are never joined to a path: a manifest cannot point outside its folder
        if path is None or not _is_regular(path):
            problems.append(f"{name} is {'missing' if path is None else 'not a regular file'}")
        elif not isinstance(entry, dict) or path.stat().st_size != entry.get("size"):
            problems.append(f"{name} has {path.stat().st_size} bytes, not those that were written")
        elif _hash(path) != entry.get("xxh3_128"):
            problems.append(f"{name} has the right size, but other content than was written")
    unlisted = [name for name in found if name not in listed and name != MANIFEST]
    return problems + [f"{name} was added later" for name in unlisted if Path(name).suffix in LOADABLE]


def _hash(path: Path) -> str:
    digest, piece = xxhash.xxh3_128(), bytearray(PIECE_BYTES)  # memory of its own for every piece takes longer to get
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(memoryview(piece)[:count])
    return digest.hexdigest()


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """The entries named `checkpoint-N`, in the order of their steps."""
    if not folder.is_dir():
        return []
    return sorted((step, path) for path in folder.iterdir() if (step := _step_of(path)) is not None)


def _step_of(path: Path) -> int | None:
    match = re.fullmatch(r"checkpoint-([0-9]+)", path.name)
    return int(match[1]) if match else None


def _staging_of(folder: Path) -> Path:
    staging = folder / STAGING
    if staging.is_symlink():
        raise CheckpointError(f"{staging}: is a symbolic link; ftune writes into real folders only, so remove the link")
    return staging


def _is_regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _tree(root: Path) -> tuple[list[Path], dict[str, Path]]:
    """All folders below and including `root`, deepest first, and all other entries by relative name."""
    folders, files = [root], {}
    for path in sorted(root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            folders.append(path)
        else:
            files[path.relative_to(root).as_posix()] = path
    return folders[::-1], files


def _install(staging: Path, target: Path) -> None:
    """Rename a complete staged folder to `target`; what is left to do after a kill, `newest_valid` does."""
    if os.path.lexists(target):
        if verify(target):
            _set_aside(target)
        elif _manifest(target) == _manifest(staging):
            _delete(staging)
            return
        else:
            target.replace(_doomed(target))
    try:
        staging.replace(target)
    except OSError:
        if _doomed(target).exists():
            _doomed(target).replace(target)
        raise
    _sync_folder(target.parent)
    _delete(_doomed(target))


def _set_aside(folder: Path) -> Path:
    """Rename a damaged folder to `NAME.damaged`, numbered where that exists, and keep it."""
    names = (folder.with_name(f"{folder.name}.damaged{suffix}") for suffix in chain([""], map("-{}".format, count(2))))
    aside = next(path for path in names if not os.path.lexists(path))
    folder.replace(aside)
    _sync_folder(folder.parent)
    return aside


def _doomed(folder: Path) -> Path:
    """Where a folder goes before its files are deleted: a name that nobody takes for a checkpoint."""
    return _staging_of(folder.parent) / f"{DOOMED}{folder.name}"


def _delete(folder: Path) -> None:
    """Delete a folder in `.staging`, if it exists, and then `.staging` itself when it is empty."""
    if folder.exists():
        shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()


def _settle(path: Path, mode: int) -> dict[str, object]:
    """Give a file its mode (safetensors writes 0600 whatever the umask), sync it, and take its size and hash."""
    path.chmod(mode)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"size": path.stat().st_size, "xxh3_128": _hash(path)}


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; a rename is not before this."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a failure of the disk into a StorageError: path, cause, free space where that is the cause, what to do."""
    try:
        yield
    except Exception as error:
        free_bytes = _free_bytes(path)
        number = _errno_of(error, free_bytes)
        if number is None:
            raise
        free = f" ({free_bytes / 2**30:.1f} GiB free)" if number in NO_ROOM else ""
        message = f"{path}: {os.strerror(number)}{free}; {_advice(number)}"
        raise StorageError(message) from error


def _errno_of(error: Exception, free_bytes: int) -> int | None:
    """The operating system's error number, also from native writers that only put it into their text."""
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        return error.errno
    if match := re.search(r"\(os error ([0-9]+)\)", str(error)):  # safetensors
        return int(match[1])
    if re.search(r"PytorchStreamWriter|inline_container", str(error)):  # torch.save keeps the cause to itself
        return errno.EIO if free_bytes > FULL_BYTES else errno.ENOSPC
    return None


def _advice(number: int) -> str:
    if number in NO_ROOM:
        return "make room, of runs by keeping fewer checkpoints, or write to another folder"
    if number in {errno.ENOENT, errno.ENOTDIR, errno.EEXIST}:
        return "check the path"
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "make the folder writable or choose another output_dir"
    return "check the disk and its connection"


def _free_bytes(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist."""
    for folder in (path, *path.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0
