"""Every shipped recipe loads, validates, names its schema and dry-runs; the shipped schemas are current."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ftune.recipes.catalogue import names, recipes_folder
from ftune.recipes.load import load_recipe, recipe_schema
from tests.conftest import Done
from tests.contract.adapters_to_fuse import adapters_to_fuse
from tests.ppo_inputs import write_adapter, write_judge

RECIPES = [name for name, _ in names()]
SMALL = {
    "ppo": [
        "rollout={type: generate, batch_size: 4, max_new_tokens: 4}",
        "ppo={minibatch_size: 4, micro_batch_size: 4}",
        "schedule={iterations: 2}",
        "eval={every: 1, completions_per_prompt: 1}",
    ],
}
"""What makes a recipe of a command small; by default, two steps."""


def often(name: str) -> bool:
    """Whether the gate trains it here: those in `sft/` differ by the method, and the contract trains each of these.

    Those of `rlhf` are trained one after another in `tests/e2e/test_rlhf.py`.
    """
    return not name.startswith("rlhf/") and (not name.startswith("sft/") or name in ("sft/full", "sft/prefix"))


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What recipes start from that go on from the run of another one: runs by their names."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    for name, adapter in zip(("first", "second"), adapters_to_fuse(), strict=True):
        shutil.copytree(adapter, runs / name / "adapter")
    write_adapter(tiny_model, runs / "rlhf-sft")
    for name in ("legal", "support"):
        write_adapter(tiny_model, runs / name)
    write_judge(tiny_model, runs / "rlhf-rm", ["reward"])
    write_judge(tiny_model, runs / "rm", ["reward"])
    write_judge(tiny_model, runs / "classifier", ["civil", "rude"])
    return runs


@pytest.fixture(autouse=True)
def _in_a_folder_with_runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is one where those have run."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "runs").symlink_to(trained)
    monkeypatch.chdir(tmp_path / "work")


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_valid_and_short(name: str, ftune: Callable[..., Done]) -> None:
    path = recipes_folder() / f"{name}.yaml"
    text = path.read_text()
    kind = yaml.safe_load(text)["type"]
    load_recipe(kind, path)
    assert len(text.splitlines()) <= 40
    schema = re.match(r"# yaml-language-server: \$schema=(.*)\n# \S", text)
    assert schema, "the first line names the schema, the second says what the recipe is for"
    assert (path.parent / schema[1]).is_file()
    elsewhere = ["output_dir=runs/new"] if kind in ("sft", "rm", "ppo") else []  # not in a folder of `trained`
    assert ftune(kind, path, *elsewhere, "--dry-run").code == 0


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if often(name) else pytest.mark.slow) for name in RECIPES]
)
def test_a_shipped_recipe_runs_on_the_tiny_model(
    name: str, ftune: Callable[..., Done], tiny_model: Path, tmp_path: Path
) -> None:
    path = recipes_folder() / f"{name}.yaml"
    text = path.read_text()
    kind = yaml.safe_load(text)["type"]
    tiny = [f"model.path={tiny_model}", f"output_dir={tmp_path / 'run'}", *SMALL.get(kind, ["schedule={max_steps: 2}"])]
    if kind == "merge":
        tiny = [f"base={tiny_model}", f"output={tmp_path / 'merged'}"]
    if kind == "eval":
        tiny = [f"model={tiny_model}", "against=none", f"output={tmp_path / 'eval'}", "limit=2", "max_new_tokens=4"]
    tiny += ["peft.layers=[0]"] if "layers:" in text else []
    done = ftune(kind, path, *tiny)
    assert done.code == 0, done.err


@pytest.mark.parametrize("command", ["sft", "rm", "ppo", "merge", "eval"])
def test_shipped_schemas_are_current(command: str) -> None:
    shipped = json.loads((recipes_folder() / "schema" / f"{command}.json").read_text())
    assert shipped == recipe_schema(command), f"run: ftune schema {command} > recipes/schema/{command}.json"


@pytest.mark.parametrize("name", ["quickstart", "sft/prefix"])
def test_copy_brings_the_rows_along(name: str, ftune: Callable[..., Done], tmp_path: Path) -> None:
    done = ftune("recipes", "copy", name, tmp_path / "mine.yaml")
    assert done.code == 0, done.err
    assert (tmp_path / "data/orders/train.jsonl").is_file()
    loaded = load_recipe("sft", tmp_path / "mine.yaml")
    assert loaded.recipe.resolved()["data"]["train"][0]["path"] == str(tmp_path / "data/orders/train.jsonl")
    assert "there already; choose another name" in ftune("recipes", "copy", name, tmp_path / "mine.yaml").err
    again = ftune("recipes", "copy", name, tmp_path / "second.yaml")  # beside the same rows
    assert (again.code, again.out.split()) == (0, [str(tmp_path / "second.yaml")])
    (tmp_path / "data/orders/train.jsonl").write_text("{}")
    refused = ftune("recipes", "copy", name, tmp_path / "third.yaml")
    assert refused.code == 2
    assert "train.jsonl: there already, and not the rows of this recipe" in refused.err
    assert not (tmp_path / "third.yaml").exists()
