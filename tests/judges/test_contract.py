"""What every judge promises, on each file of `ftune/judges` by discovery."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from ftune.core.section import field_docs
from ftune.core.variants import union_of, variants_of
from ftune.judges.base import Judge

NEEDED: dict[str, dict[str, object]] = {
    "endpoint": {"url": "http://localhost:8000/v1", "model": "big", "temperature": 0, "retries": 2},
    "local": {"path": "org/judge"},
    "reward": {"path": "org/judge", "margin": 1},
}
BAD: dict[str, dict[str, object]] = {
    "endpoint": {"concurrency": 0},
    "local": {"prompt": "A or B?"},
    "reward": {"margin": -0.1},
}


def made(name: str, **keys: object) -> Judge:
    """The judge as a recipe makes it."""
    judge = TypeAdapter(union_of(Judge)).validate_json(json.dumps({"type": name, **NEEDED[name], **keys}))
    assert isinstance(judge, Judge)
    return judge


def test_every_file_is_tried() -> None:
    assert variants_of(Judge).keys() == NEEDED.keys() == BAD.keys()


@pytest.mark.parametrize("name", NEEDED)
def test_a_recipe_makes_it_and_every_key_is_described(name: str) -> None:
    judge = made(name)
    assert list(judge.all_faults()) == []
    assert field_docs(type(judge)).keys() == type(judge).model_fields.keys()
    assert type(judge).model_validate_json(judge.model_dump_json()) == judge


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=next(iter(BAD[name]))):
        made(name, **BAD[name])
