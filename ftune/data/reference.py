"""What the path of a source points to, told without reading it."""

import re
from glob import glob, has_magic
from importlib.util import find_spec
from pathlib import Path

from ftune.core.paths import expanded

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".txt")
"""The kinds of files that hold rows."""

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
"""Endings that may follow; what counts are the first bytes."""

EXTRAS = {
    "s3": ("s3", "s3fs"),
    "s3a": ("s3", "s3fs"),
    "gs": ("gcs", "gcsfs"),
    "gcs": ("gcs", "gcsfs"),
    "http": ("http", "aiohttp"),
    "https": ("http", "aiohttp"),
}
"""Protocol of a URL to the extra of ftune that reads it, and the module that the extra installs."""

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_FILE = re.compile(
    rf".*(?:{'|'.join(map(re.escape, (*SUFFIXES, '.text')))})(?:{'|'.join(map(re.escape, COMPRESSED))})?", re.IGNORECASE
)
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def is_remote(path: str) -> bool:
    """Whether the path is a URL, of other files than those of this machine."""
    return _URL.match(path) is not None and not path.startswith("file://")


def local_path(path: str) -> Path:
    """A local path as it can be opened: without `file://`, with `~` spelled out."""
    return expanded(path.removeprefix("file://"))


def suffix_of(path: str) -> str:
    """The ending that tells the kind of file: `.jsonl` for `rows.jsonl.gz`; of a URL, what comes before `?` and `#`."""
    name = re.split("[?#]", path, maxsplit=1)[0] if is_remote(path) else path
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSED), "")


def is_hub_id(path: str) -> bool:
    """Whether the path names a hub data set: `org/name` or `name`, and nothing local."""
    local_looking = path.startswith((".", "/", "~")) or _FILE.fullmatch(path) is not None
    return not local_looking and _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def check_path(path: str) -> str:
    """What is wrong with the path of a source on this machine; empty when nothing is. Asks no network."""
    if is_remote(path):
        return _missing_extra(path)
    local = local_path(path)
    if local.exists() or is_hub_id(path):
        return ""
    if has_magic(str(local)):
        found = any(glob(str(local), recursive=True))  # noqa: PTH207 - pathlib's glob takes no absolute pattern
        return "" if found else f"no file matches '{path}'"
    folder = local.parent
    if folder.is_dir():
        from ftune.core.suggest import did_you_mean

        near = [str(folder / name.name) if len(local.parts) > 1 else name.name for name in folder.iterdir()]
        hint = did_you_mean(path, near)
        return f"no such file or folder '{path}'{hint if hint.startswith('; did') else ''}"
    return f"no such file or folder '{path}' (there is no folder '{folder}')"


def _missing_extra(path: str) -> str:
    protocol = path.split("://", 1)[0].lower()
    if protocol not in EXTRAS:
        return ""
    extra, module = EXTRAS[protocol]
    if find_spec(module):
        return ""
    return f"reading '{protocol}://' needs the package {module}; install it with: pip install 'ftune[{extra}]'"
