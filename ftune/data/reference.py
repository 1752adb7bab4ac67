"""What the path of a source points to, told without reading it."""

import re
from pathlib import Path

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_FILE = re.compile(r".*\.(?:jsonl?|ndjson|csv|tsv|parquet|txt|text)(?:\.gz)?", re.IGNORECASE)


def is_hub_id(path: str) -> bool:
    """Whether the path names a hub data set: `org/name` or `name`, and nothing local."""
    local_looking = path.startswith((".", "/", "~")) or _FILE.fullmatch(path) is not None
    return not local_looking and _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def check_path(path: str) -> str:
    """What is wrong with the path of a source on this machine; empty when nothing is. Asks no network."""
    local = Path(path).expanduser()
    if local.exists() or is_hub_id(path):
        return ""
    folder = local.parent
    if folder.is_dir():
        from ftune.core.suggest import did_you_mean

        near = [str(folder / name.name) if len(local.parts) > 1 else name.name for name in folder.iterdir()]
        hint = did_you_mean(path, near)
        return f"no such file or folder '{path}'{hint if hint.startswith('; did') else ''}"
    return f"no such file or folder '{path}' (there is no folder '{folder}')"
