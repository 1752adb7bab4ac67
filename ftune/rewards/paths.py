"""Where the files are that a source names."""

import os
from pathlib import Path

from pydantic import ValidationInfo

from ftune.core.paths import find_file


def looked_up(path: str, info: ValidationInfo) -> str:
    """A path found from the working folder or the recipe's, as it can be opened from here; else unchanged."""
    found = find_file(path, (info.context or {}).get("folders", [Path()]))
    return os.path.normpath(found) if found else path
