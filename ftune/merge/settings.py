"""The JSON files that lie beside weights."""

import json
from pathlib import Path
from typing import Any

from ftune.core.errors import ModelError
from ftune.core.paths import shown


def read_settings(file: Path) -> dict[str, Any]:
    """What a file such as config.json says. Raises ModelError where it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{shown(file)}: cannot be read: {error}; fetch or write it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{shown(file)}: holds no settings; fetch or write it again")
    return content
