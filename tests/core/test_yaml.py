"""Recipe YAML: YAML 1.2 scalars, positions, limits."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.yaml import dotted, parse_yaml, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5", 5),
        ("-3", -3),
        ("+2.5", 2.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-11-22", "2026-11-22"),
        ("1e", "1e"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_text_stays_text() -> None:
    assert parse_yaml("a: '5'\nb: \"true\"", "f").value == {"a": "5", "b": "true"}


@pytest.mark.parametrize("text", [".nan", ".inf", "-.Inf", "1e999"])
def test_numbers_must_be_finite(text: str) -> None:
    (fault,) = parse_yaml(f"a: {text}", "f.yaml").faults
    assert str(fault).startswith("f.yaml:1:4: ")


def test_every_key_has_its_line_and_column() -> None:
    marks = parse_yaml("a:\n  b: 1\n  c: [x, {d: 2}]\n", "f").marks
    assert str(marks[("a", "b")]) == "f:2:3"
    assert str(marks[("a", "c", 1, "d")]) == "f:3:11"


def test_duplicate_keys_are_all_reported() -> None:
    faults = parse_yaml("a: 1\nb: 2\na: 3\nb: 4\n", "f").faults
    assert [str(fault) for fault in faults] == [
        "f:3:1: a: key given twice (first on line 1)",
        "f:4:1: b: key given twice (first on line 2)",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1,", "not valid YAML"),
        ("a:\n\t- b", "indent with blanks"),
        ("a: b: c", "mapping values are not allowed"),
        ("- &a [*a]", "no anchor before it"),
        ("a: \x00", "not allowed in YAML"),
        ("[" * 60, "deeper than 32"),
        ("a: !!python/object/apply:os.system [x]", "tag"),
        ("<<: {a: 1}", "merge keys"),
        ("a: 1\n---\nb: 2", "second YAML document"),
        ("? [a]\n: 1", "a key must be plain text"),
        ("a: " + "x" * 2**20, "larger than"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    faults = parse_yaml(text, "f").faults
    assert words in "\n".join(map(str, faults))


def test_alias_bomb_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "after aliases are expanded" in str(parse_yaml("\n".join(lines), "f").faults[0])


# what lies above, JSON escapes in a way that YAML does not know
texts = st.text(st.characters(min_codepoint=1, max_codepoint=0xD7FF), max_size=60)  # NUL is refused
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts.filter(lambda key: len(key) < 20), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(alphabet="abcdef_", min_size=1), plain, max_size=5))
def test_json_is_read_as_json_reads_it(value: dict[str, object]) -> None:
    document = parse_yaml(json.dumps(value), "f")
    assert document.faults == []
    assert document.value == value


@given(st.text(max_size=200))
def test_no_text_makes_it_fail_otherwise_than_by_faults(text: str) -> None:
    parse_yaml(text, "f")


def test_dotted() -> None:
    assert dotted(("data", "train", 0, "path")) == "data.train[0].path"
