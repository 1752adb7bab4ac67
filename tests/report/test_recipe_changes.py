"""Differences between recipes, in words."""

import pytest

from ftune.report.recipe_changes import forbidden_changes

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
