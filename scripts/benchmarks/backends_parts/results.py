"""Results as JSON lines: each is kept at once, and the last of its kind counts."""

import json
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def tell(result: Result, path: Path | None) -> None:
    """Print a result and keep it, where there is somewhere to."""
    line = json.dumps(result)
    print(line, flush=True)
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def kept(path: Path) -> list[Result]:
    """All results in a file, the oldest first; none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]
