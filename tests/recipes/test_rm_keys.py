"""Every key that a recipe of `ftune rm` accepts does something, and what means nothing there is refused with words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.core.errors import RecipeError
from ftune.recipes.load import load_recipe
from ftune.recipes.rm import OF_SFT, RmRecipe
from tests.conftest import Done, write_rows
from tests.contract.cases import cases, method
from tests.recipes.test_keys import COVERED, TRAINING, keys_of

Write = Callable[..., Path]
Run = Callable[..., Done]

OWN = {"label_smoothing", "center", "margin", "head.type", "head.labels", "head.positive_class"}


@pytest.fixture
def write(recipe: Write, tmp_path: Path) -> Write:
    """Writes an rm recipe on pairs with margins."""
    rows = [
        {"prompt": f"{number}?", "chosen": "the cat", "rejected": f"a mat {number}", "margin": 0.5}
        for number in range(8)
    ]
    write_rows(tmp_path / "pairs.jsonl", list(rows))

    def of(**sections: object) -> Path:
        return recipe(**{"type": "rm", "data": {"train": "pairs.jsonl", "validation": 0.25}, **sections})

    return of


@pytest.fixture
def built(write: Write, ftune: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The trainer that a recipe makes; nothing is trained."""
    from ftune.trainers.training import Outcome

    trainers: list[Any] = []

    def instead(trainer: Any, *args: Any) -> Outcome:
        trainers.append(trainer)
        return Outcome(0, 1, 0.0, "SIGTERM", False)

    monkeypatch.setattr("ftune.trainers.rm.train", instead)

    def build(**sections: object) -> Any:
        done = ftune("rm", write(**sections), "--overwrite")
        assert done.code == 75, done.err
        return trainers[-1]

    return build


def test_no_key_is_without_a_case() -> None:
    assert sorted(set(keys_of(RmRecipe)) - COVERED - OWN) == []
    assert set(keys_of(RmRecipe)) >= OWN


@pytest.mark.parametrize("key", [key for key in TRAINING if key != "trainer_args"])
def test_keys_that_become_training_arguments(write: Write, key: str) -> None:
    override, name, value = TRAINING[key]
    before, after = (load_recipe("rm", write(), given).recipe for given in ([], [override]))
    assert isinstance(before, RmRecipe)
    assert isinstance(after, RmRecipe)
    assert after.training_args()[name] == value
    assert before.training_args().get(name) != value


def test_keys_of_the_loss(built: Callable[..., Any]) -> None:
    plain = built(trainer_args={"adam_epsilon": 1e-6})
    asked = built(label_smoothing=0.1, center=0.01, margin=True)
    assert (plain.label_smoothing, plain.center, plain.args.adam_epsilon) == (0.0, 0.0, 1e-6)
    assert (asked.label_smoothing, asked.center) == (0.1, 0.01)
    batches = [trainer.data_collator([trainer.train_dataset[0]]) for trainer in (plain, asked)]
    assert [batch["margins"].tolist() for batch in batches] == [[0.0], [0.5]]


def test_keys_of_the_head(built: Callable[..., Any], tmp_path: Path) -> None:
    write_rows(tmp_path / "texts.jsonl", [{"text": f"the {at}", "label": ("no", "yes")[at % 2]} for at in range(8)])
    data = {"train": "texts.jsonl"}
    by_rows = built(data=data, head={"type": "classifier", "positive_class": "yes"}, label_smoothing=0.2)
    named = built(data=data, head={"type": "classifier", "labels": ["yes", "no", "?"], "positive_class": "yes"})
    assert (by_rows.names, by_rows.positive, by_rows.label_smoothing) == (("no", "yes"), 1, 0.2)
    assert (named.names, named.positive) == (("yes", "no", "?"), 0)
    assert named.model.config.id2label == {0: "yes", 1: "no", 2: "?"}
    assert [trainer.train_dataset[1]["class"] for trainer in (by_rows, named)] == [1, 0]


def test_dropout_is_that_of_the_adapter_alone(built: Callable[..., Any], tmp_path: Path, tiny_model: Path) -> None:
    import shutil

    from torch.nn import Dropout

    noisy = shutil.copytree(tiny_model, tmp_path / "noisy")
    config = json.loads((noisy / "config.json").read_text())
    (noisy / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.3}))
    trainer = built(model={"path": str(noisy)}, peft={"type": "lora", "dropout": 0.2})
    rates = {name: module.p for name, module in trainer.model.named_modules() if isinstance(module, Dropout)}
    assert {rate for name, rate in rates.items() if "lora_dropout" in name} == {0.2}
    attention = trainer.model.get_base_model().model.layers[0].self_attn
    assert attention.attention_dropout == 0.0


@pytest.mark.parametrize("key", OF_SFT)
def test_what_means_nothing_for_scores_is_refused_at_its_place(write: Write, key: str) -> None:
    path = write(data={"train": "pairs.jsonl", key: False})
    with pytest.raises(RecipeError, match=rf"data\.{key}: .*; remove it") as refused:
        load_recipe("rm", path)
    (line,) = str(refused.value).splitlines()
    assert OF_SFT[key] in line


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"center": 0.1, "head": {"type": "classifier", "positive_class": "a"}}, "center: it is about pairs"),
        ({"margin": True, "head": {"type": "classifier", "positive_class": "a"}}, "margin: it is about pairs"),
        ({"head": "classifier"}, "head.positive_class: required, but not given"),
        (
            {"head": {"type": "classifier", "labels": ["a", "b"], "positive_class": "c"}},
            "head.positive_class: 'c' is not among 'labels': a, b",
        ),
        ({"head": {"type": "classifier", "labels": ["a", "a"], "positive_class": "a"}}, "a class is named twice"),
        ({"trainer_args": {"center_rewards_coefficient": 1}}, "center_rewards_coefficient: belongs to center"),
        ({"trainer_args": {"disable_dropout": False}}, "disable_dropout: cannot be set"),
        ({"trainer_args": {"completion_only_loss": False}}, "completion_only_loss: belongs to data.mask"),
    ],
    ids=str,
)
def test_impossible_recipes_are_refused(write: Write, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("rm", write(**sections))
    assert words in str(refused.value)


HEADLESS = [case for case in cases() if "classification" in method(case).limits()]


@pytest.mark.parametrize("case", HEADLESS)
def test_a_method_without_a_head_is_refused(write: Write, case: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("rm", write(peft=cases()[case]))
    assert f"peft.type: {method(case).limits()['classification']}" in str(refused.value)
    assert HEADLESS
