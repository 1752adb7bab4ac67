"""Where the files are that a source names."""

import os
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, ValidationInfo

from ftune.core.paths import find_file


def looked_up(path: str, info: ValidationInfo) -> str:
    """A path found from the working folder or the recipe's, as it can be opened from here; else unchanged."""
    found = find_file(path, (info.context or {}).get("folders", [Path()]))
    return os.path.normpath(found) if found else path


def _looked_up(value: Any, info: ValidationInfo) -> Any:
    return looked_up(value, info) if isinstance(value, str) else value


LookedUp: TypeAlias = Annotated[str, BeforeValidator(_looked_up)]
"""A file or folder, or a model's name; what is here is looked up as its value is read."""
