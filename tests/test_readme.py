"""The README tells the truth: its recipe reference is the current one."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_recipe_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "scripts/make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "README.md").read_text()
    assert module.updated(text) == text, "run: python scripts/make_reference.py"
    assert text.count("| `optim.learning_rate` |") == 2  # of sft, and of ppo
