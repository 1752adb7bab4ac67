"""Overrides: what is set is what is read back; what cannot be set is said."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.overrides import apply_overrides
from ftune.core.yaml import Document, parse_yaml

names = st.from_regex(r"[a-z][a-z_]{0,6}", fullmatch=True)
values = (
    st.booleans()
    | st.integers()
    | st.text(st.characters(max_codepoint=0xD7FF), max_size=20)
    | st.lists(st.integers(), max_size=3)
)


def overridden(text: str, *overrides: str) -> Document:
    document = parse_yaml(text, "f")
    apply_overrides(document, overrides)
    return document


@given(st.lists(names, min_size=1, max_size=4), values)
def test_override_then_read_gives_the_value(place: list[str], value: object) -> None:
    found = overridden("a: {b: {c: 1}}", f"{'.'.join(place)}={json.dumps(value)}").value
    for name in place:
        assert isinstance(found, dict)
        found = found[name]
    assert found == value


@pytest.mark.parametrize("key", ["train.0.path", "train[0].path"])
def test_list_items_by_index(key: str) -> None:
    assert overridden("train: [{path: a}, {path: b}]", f"{key}=c").value == {"train": [{"path": "c"}, {"path": "b"}]}


def test_a_variant_by_name_opens_up() -> None:
    assert overridden("peft: lora", "peft.rank=8").value == {"peft": {"type": "lora", "rank": 8}}


def test_the_last_one_wins_and_numbers_are_yaml_1_2() -> None:
    assert overridden("", "a=1", "a=1e-4").value == {"a": 1e-4}


def test_a_replaced_mapping_forgets_where_its_keys_were() -> None:
    document = overridden("a:\n  b: 1\n", "a={c: 2}")
    assert ("a", "b") not in document.marks
    assert str(document.marks[("a",)]) == "<override 1>"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("nonsense", "not of the form key.path=value"),
        ("a..b=1", "not of the form"),
        ("=1", "not of the form"),
        ("n.x=1", "'n' is the single value 3"),
        ("l.5=1", "'l' is a list of 1"),
        ("a=[", "not valid YAML"),
    ],
)
def test_what_cannot_be_set(override: str, words: str) -> None:
    (fault,) = overridden("n: 3\nl: [1]", override).faults
    assert words in str(fault)
    assert str(fault).startswith("<override 1>: ")


def test_a_sign_of_yaml_at_the_beginning_wants_quotes() -> None:
    document = parse_yaml("data: {}", "f")
    apply_overrides(document, ["data.train=*.jsonl", 'data.train="*.jsonl"'])
    (fault,) = document.faults
    assert str(fault) == (
        "<override 1>: data.train: '*' begins no text in YAML; put quotes in quotes: data.train='\"*.jsonl\"'"
    )
    assert document.value == {"data": {"train": "*.jsonl"}}
