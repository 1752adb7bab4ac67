"""Differences between recipes, in words."""

import pytest

from ftune.report.recipe_changes import forbidden_changes, trains_longer

SOURCE = {"path": "a.jsonl", "weight": 1.0, "split": None}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"seed": 1}, {"seed": 1}, []),
        ({"output_dir": "a", "schedule": {"epochs": 1.0}}, {"output_dir": "b", "schedule": {"epochs": 3.0}}, []),
        ({"batch": {"micro_batch_size": 1}}, {"batch": {"micro_batch_size": 8}}, []),
        ({"optim": {"lr": 0.1}}, {"optim": {"lr": 0.2}}, ["optim.lr: was 0.1, is 0.2"]),
        ({"packing": None}, {"packing": True}, ["packing: was null, is true"]),
        (
            {"data": {"train": [SOURCE]}},
            {"data": {"train": [SOURCE | {"path": "b.jsonl"}]}},
            ["data.train[0].path: was 'a.jsonl', is 'b.jsonl'"],
        ),
        (
            {"data": {"train": [SOURCE]}},
            {"data": {"train": [SOURCE, SOURCE | {"path": "b.jsonl"}]}},
            ["data.train[1]: was null, is {path: 'b.jsonl', weight: 1.0}"],
        ),
        ({"targets": ["q", "k"]}, {"targets": "all"}, ["targets: was ['q', 'k'], is 'all'"]),
    ],
)
def test_only_what_differs_and_may_not_is_said(old: dict[str, object], new: dict[str, object], said: list[str]) -> None:
    assert forbidden_changes(old, new) == said


@pytest.mark.parametrize(
    ("old", "new", "longer"),
    [
        ({"epochs": 1.0}, {"epochs": 3.0}, True),
        ({"epochs": 3.0}, {"epochs": 3.0}, False),
        ({"epochs": None}, {"epochs": 3.0}, False),
        ({"epochs": 3.0}, {"epochs": 1.0}, False),
        ({"max_steps": 20}, {"max_steps": 21}, True),
        ({"max_steps": 20}, {"max_steps": 20}, False),
        ({"max_steps": 30}, {"max_steps": 25}, False),
        ({"epochs": 1.0}, {"max_steps": 20}, False),
        ({"epochs": 1.0}, {"max_steps": 21}, True),
        ({"iterations": 2}, {"iterations": 3}, True),
        ({"iterations": 3}, {"iterations": 2}, False),
        ({}, {}, False),
    ],
)
def test_a_longer_schedule_is_told_from_others(old: dict[str, object], new: dict[str, object], longer: bool) -> None:
    assert trains_longer({"schedule": old}, {"schedule": new}, last_step=20) == longer
