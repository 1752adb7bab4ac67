"""JSON: fields counted by hand, sums over rows, and texts that are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.evals.metrics.base import Answer
from ftune.evals.metrics.json_fields import JsonFields, fields_of

LEAF = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "1"]) | st.lists(st.integers(0, 1))
OBJECT = st.dictionaries(st.sampled_from("abc"), LEAF | st.dictionaries(st.sampled_from("xy"), LEAF), max_size=3)


def row(completion: str, *references: str, fenced: bool = False) -> list[float | None]:
    """Valid, exact, precision, recall, F1."""
    return [one.rows[0] for one in JsonFields(fenced=fenced).score([Answer(completion, references)]).values()]


@pytest.mark.parametrize(
    ("completion", "reference", "values"),
    [
        ('{"b": null, "a": 1}', '{"a": 1, "b": null}', (1, 1, 1, 1, 1)),
        (' {"a": 1}\n', '{"a": 1, "b": null}', (1, 0, 1, 1 / 2, 2 / 3)),
        ('{"a": 1, "b": 2, "c": 3}', '{"a": 1}', (1, 0, 1 / 3, 1, 1 / 2)),
        ('{"a": 1.0}', '{"a": 1}', (1, 1, 1, 1, 1)),
        ('{"a": true}', '{"a": 1}', (1, 0, 0, 0, 0)),
        ('{"a": "1"}', '{"a": 1}', (1, 0, 0, 0, 0)),
        ('{"a": [2, 1]}', '{"a": [1, 2]}', (1, 0, 0, 0, 0)),
        ('{"a": {"x": 1, "y": 2}}', '{"a": {"x": 1, "y": 3}}', (1, 0, 1 / 2, 1 / 2, 1 / 2)),
        ('{"a": {"x": 1}}', '{"a.x": 1}', (1, 0, 0, 0, 0)),
        ("{}", "{}", (1, 1, 1, 1, 1)),
        ("", "{}", (0, 0, 0, 0, 0)),
        ("null", "null", (1, 1, 1, 1, 1)),
        ("a: 1", '{"a": 1}', (0, 0, 0, 0, 0)),
        ('{"a": NaN}', '{"a": 1}', (0, 0, 0, 0, 0)),
        ('{"a": 1e99999999999999999999}', '{"a": 1}', (0, 0, 0, 0, 0)),
        ("[" * 5000, '{"a": 1}', (0, 0, 0, 0, 0)),
        ('{"a":' * 900 + "1" + "}" * 900, '{"a": 1}', None),
    ],
)
def test_fields_counted_by_hand(completion: str, reference: str, values: tuple[float, ...] | None) -> None:
    found = row(completion, reference)
    if values is None:  # so deep that it depends on the stack whether Python reads it; it is wrong either way
        assert found[1:] == [0, 0, 0, 0]
    else:
        assert found == pytest.approx(values)


@given(OBJECT)
def test_an_object_is_itself_however_it_is_written(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert row(json.dumps(value, indent=2), json.dumps(backwards)) == [1, 1, 1, 1, 1]


@given(st.lists(st.tuples(OBJECT, OBJECT), min_size=1, max_size=5))
def test_all_rows_count_their_fields_together(pairs: list[tuple[dict[str, object], dict[str, object]]]) -> None:
    def leaves(value: dict[str, object]) -> set[str]:
        """`key.key=value` of each field, with JSON's own way to write it."""
        parts = [
            (f"{key}.{inner}" if inner else key, deep)
            for key, each in value.items()
            for inner, deep in (each.items() if isinstance(each, dict) and each else [("", each)])
        ]
        return {f"{place}={json.dumps(deep)}" for place, deep in parts} or {"={}"}

    scored = JsonFields().score([Answer(json.dumps(made), (json.dumps(wanted),)) for made, wanted in pairs])
    right = sum(len(leaves(made) & leaves(wanted)) for made, wanted in pairs)
    found = sum(len(leaves(made)) for made, _ in pairs)
    asked = sum(len(leaves(wanted)) for _, wanted in pairs)
    assert scored["json_precision"].value == pytest.approx(right / found)
    assert scored["json_recall"].value == pytest.approx(right / asked)
    assert scored["json_f1"].value == pytest.approx(2 * right / (found + asked))


def test_rows_without_json_to_compare_with_are_missing_but_for_validity() -> None:
    answers = [Answer('{"a": 1}', ('{"a": 1}',)), Answer("{}", ("text",)), Answer("text", ())]
    scored = JsonFields().score(answers)
    assert {name: one.missing for name, one in scored.items() if name != "json_valid"} == dict.fromkeys(
        ("json_exact", "json_precision", "json_recall", "json_f1"), 2
    )
    assert list(scored["json_valid"].rows) == [1, 1, 0]
    assert scored["json_f1"].value == 1
    nothing_found = JsonFields().score([Answer("", ('{"a": 1}',))])
    assert [one.value for one in nothing_found.values()] == [0, 0, 0, 0, 0]


def test_the_best_reference_counts_and_blocks_are_read_where_asked() -> None:
    assert row('{"a": 1}', "text", '{"b": 1}', '{"a": 1}') == [1, 1, 1, 1, 1]
    fenced = 'Here:\n```json\n{"a": 1}\n```\nDone.'
    assert row(fenced, '{"a": 1}') == [0, 0, 0, 0, 0]
    assert row(fenced, '{"a": 1}', fenced=True) == [1, 1, 1, 1, 1]


def test_references_that_are_no_json_are_refused() -> None:
    assert JsonFields().unfit([["{"], ["text"]]) == "no reference is JSON"
    assert JsonFields().unfit([]) == "the rows have no answers to compare with"
    assert not JsonFields().unfit([["text"], ["{}"]])
    assert fields_of("{") is None
