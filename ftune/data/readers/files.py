"""Which files a path stands for: one, those of a folder, or those that match a pattern; here or remote."""

from glob import glob, has_magic
from pathlib import Path

from ftune.core.errors import DataError
from ftune.data.readers.opening import DataFile, remote, unreachable
from ftune.data.reference import COMPRESSED, SUFFIXES, check_path, is_remote, local_path, suffix_of

SIDE_FILES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""What `datasets` writes beside the rows."""

SUPPORTED = f"supported: {', '.join(SUFFIXES)}, also with {', '.join(COMPRESSED)}"


def data_files(path: str, encoding: str | None = None) -> list[DataFile]:
    """The files behind a path, sorted by name. Raises DataError where there is none."""
    if problem := check_path(path):
        raise DataError(problem)
    found = _remote_files(path) if is_remote(path) else _local_files(local_path(path))
    return [DataFile(name, encoding) for name in found]


def _local_files(path: Path) -> list[str]:
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        return _of_folder(str(path), [str(file) for file in path.rglob("*") if file.is_file()])
    matching = glob(str(path), recursive=True)  # noqa: PTH207 - pathlib's glob takes no absolute pattern
    if files := sorted(name for name in matching if Path(name).is_file()):
        return files
    raise DataError(f"{path}: no file" + (" matches this pattern" if has_magic(str(path)) else ""))


def _remote_files(path: str) -> list[str]:
    if "*" not in path and (suffix_of(path) in SUFFIXES or path.startswith(("http://", "https://"))):
        return [path]  # asked whether it is a folder, a web server would send the file
    system, inner = remote(path)
    try:
        if "*" in path:
            files = sorted(name for name in system.glob(inner) if not Path(name).name.startswith("."))
        elif system.isdir(inner):
            files = _of_folder(inner, system.find(inner))
        else:
            return [path]
    except DataError:
        raise
    except Exception as error:  # every file system raises its own kinds; all are the user's to solve
        raise unreachable(path, error) from None
    if not files:
        raise DataError(f"{path}: no file matches this pattern")
    return [str(system.unstrip_protocol(file)) for file in files]


def _of_folder(folder: str, names: list[str]) -> list[str]:
    """Those that hold rows: of a known kind, not hidden and in no hidden folder."""
    files = sorted(
        name
        for name in names
        if suffix_of(name) in SUFFIXES
        and Path(name).name not in SIDE_FILES
        and not any(part.startswith(".") for part in Path(name).relative_to(folder).parts)
    )
    if not files:
        raise DataError(f"{folder}: this folder holds no data files; {SUPPORTED}")
    return files
