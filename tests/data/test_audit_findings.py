"""Every kind of finding: rows that have it are found with their place, and rows that do not have it are not."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.audit.audit import Audit, Measured
from ftune.data.audit.report import PARTS
from ftune.data.audit.rules import PLACES, RULES
from ftune.data.example import (
    Conversation,
    Feedback,
    Message,
    Preference,
    PromptCompletion,
    Skipped,
    Text,
    ToolCall,
)
from ftune.data.row import BadRow


def chat(*turns):
    """Turns as `role: text`; `call` is an assistant that calls a tool."""
    messages = []
    for turn in turns:
        role, _, text = turn.partition(": ")
        calls = (ToolCall("weather", {"city": text}),) if role == "call" else ()
        messages.append(Message("assistant", "", calls) if calls else Message(role, text))
    return Conversation(tuple(messages))


def pair(chosen, rejected, prompt="user: Hi"):
    return Preference(chat(prompt, f"assistant: {chosen}"), chat(prompt, f"assistant: {rejected}"))


GOOD = chat("system: Be brief.", "user: What is it?", "assistant: It is a test.")


def report_of(train=(), held_out=(), measured=None, **options):
    """The report of these outcomes, at `t:1`, `t:2`, ... and `h:1`, ..."""
    audit = Audit(**options)
    for part, file, outcomes in zip(PARTS, "th", (train, held_out), strict=True):
        for line, outcome in enumerate(outcomes, 1):
            audit.take(part, f"{file}:{line}", outcome, measured)
    return audit.report()


def found(*train, held_out=(), **options):
    """Ids of findings with their places."""
    return {one.id: one.places for one in report_of(train, held_out, **options).findings}


def test_a_good_row_is_clean():
    report = report_of([GOOD], [chat("user: And that?", "assistant: Another.")])
    assert report.findings == ()
    assert report.verdict == "clean"
    assert [(part.part, part.read, part.kept) for part in report.parts] == [("train", 1, 1), ("held-out", 1, 1)]


SHAPES = {
    "empty_answers": (chat("user: Hi", "assistant:  \n"), chat("user: Hi", "call: Bonn")),
    "roles_repeated": (
        chat("user: Hi", "user: Hello?", "assistant: Yes"),
        chat("user: Rain?", "call: Bonn", "tool: no", "tool: no", "assistant: No."),
    ),
    "roles_first": (chat("assistant: Hi", "user: Hi", "assistant: So"), GOOD),
    "roles_last": (chat("user: Hi", "assistant: So", "user: Bye"), GOOD),
    "roles_system_late": (chat("user: Hi", "system: Be brief", "assistant: So"), GOOD),
    "tools_unasked": (
        chat("user: Hi", "assistant: So", "tool: 3", "assistant: 3"),
        chat("user: Hi", "call: Bonn", "tool: 3", "assistant: 3"),
    ),
    "equal_sides": (pair("So", "So"), pair("So", "No")),
    "prompts_differ": (
        Preference(chat("user: A", "assistant: x"), chat("user: B", "assistant: y")),
        Preference(PromptCompletion("a", "b"), PromptCompletion("a", "c")),
    ),
}


@pytest.mark.parametrize("id", SHAPES)
def test_what_is_wrong_with_turns_and_sides(id):
    bad, good = SHAPES[id]
    assert found(bad).get(id) == ("t:1",)
    assert id not in found(good)


def test_an_empty_answer_is_found_in_every_kind_of_example():
    empty = chat("user: Hi", "assistant: ")
    for example in (PromptCompletion("a", "\n"), Feedback(empty, good=True), Preference(empty, GOOD)):
        assert "empty_answers" in found(example)
    context = Conversation((*empty.messages, *GOOD.messages[1:]), prompt_turns=2)
    assert "empty_answers" not in found(context)


SIGNS = {
    "replacement_characters": ("caf\ufffd", "café"),
    "mojibake": ("cafÃ© and â€™", "NÃO, «Ângela» — “IRMÔ"),
    "control_characters": ("a\x1b[31mb", "a\tb\r\n\x0c"),
    "html_entities": ("I &hearts; R&amp;B", "R&B; a & b &ampere &nothing;"),
    "secrets": ("key AKIA" + "ABCD1234EFGH5678", "the AKIA prefix, sk-learn and hf_hub_download"),
    "emails": ("write to ann.b+c@mail.example.org", "@user wrote a@b and 3 @ 4 euro"),
}


@pytest.mark.parametrize("id", SIGNS)
def test_signs_in_a_text(id):
    bad, good = SIGNS[id]
    assert found(Text(bad)).get(id) == ("t:1",)
    assert id not in found(Text(good))


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "aB3" * 11,
        "sk-proj-" + "a1B2" * 8,
        "ghp_" + "a1" * 18,
        "xoxb-" + "123456789012-abcdef",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0.c2lnbmF0dXJl",
        "https://ann:" + "pass" + "@example.org/x",
        "AIza" + "Sy0123456789_abcdefghijklmnopqrstuv",
        "github_pat_" + "a1" * 15,
    ],
)
def test_secrets_of_every_kind_are_found_wherever_they_stand(secret):
    calls = Message("assistant", "", (ToolCall("login", {"key": secret}),))
    for example in (Text(f"({secret})"), Conversation((Message("user", "Hi"), calls)), pair("No", secret)):
        assert "secrets" in found(example)


def test_a_report_holds_no_text_of_a_row():
    secret = "hf_" + "Zq7" * 11
    rows = [Text(f"marker {secret}"), Text(f"marker {secret}"), DataError(f"'key' is the text 'marker {secret}'")]
    labels = [PromptCompletion(str(row), secret[:40]) for row in range(30)]
    written = json.dumps(report_of([*rows, *labels]).as_dict())
    assert "Zq7" not in written
    assert "marker" not in written


def test_duplicates_name_the_row_that_they_repeat():
    again = chat("system: be  brief.", "user: WHAT is it?", "assistant: It is a test.\n")
    assert found(GOOD, again, GOOD) == {
        "duplicates": ("t:3 (as t:1)",),
        "duplicates_normalised": ("t:2 (as t:1)",),
    }
    other_roles = chat("user: Be brief.", "assistant: What is it?", "user: It is a test.")
    assert "duplicates" not in found(GOOD, other_roles)


def test_near_duplicates_differ_in_few_words():
    text = " ".join(f"word{number}" for number in range(100))
    near, far = f"{text} more", text.replace("word3", "other")
    assert found(Text(text), Text(near), Text(far)) == {"near_duplicates": ("t:2 (as t:1)",)}
    assert found(Text(text), Text(near), near_limit=0) == {}
    assert found(Text(text), Text(near), Text(f"{near} and more")) == {
        "near_duplicates": ("t:2 (as t:1)", "t:3 (as t:1)")
    }


def test_near_duplicates_of_scripts_without_blanks():
    text = "".join(chr(0x4E00 + 7 * number) for number in range(100))
    assert "near_duplicates" in found(Text(text), Text(f"{text}。"))
    assert "near_duplicates" not in found(Text(text), Text(text[::-1]))


def test_a_shared_system_turn_makes_no_near_duplicate():
    system = "system: " + " ".join(f"rule{number}" for number in range(200))
    rows = [chat(system, f"user: What is {n}?", f"assistant: It is {n} and nothing else.") for n in ("one", "two")]
    assert found(*rows) == {}


def test_what_leaks_between_train_and_held_out():
    long = " ".join(f"word{number}" for number in range(100))
    train = [GOOD, Text("Some text."), Text(long)]
    assert found(*train, held_out=[GOOD, Text("some  TEXT."), Text(f"{long} more"), Text("New")]) == {
        "leaked": ("h:1 (as t:1)",),
        "leaked_normalised": ("h:2 (as t:2)",),
        "near_leaked": ("h:3 (as t:3)",),
    }


def test_one_prompt_with_other_answers():
    rows = [chat("user: Hi", f"assistant: {answer}") for answer in ("A", "B", "B")]
    assert found(*rows)["other_answers"] == ("t:1", "t:2", "t:3")
    assert "other_answers" not in found(rows[1], rows[2])
    assert "other_answers" not in found(Text("a"), Text("b"), PromptCompletion("", "a"), PromptCompletion("", "b"))


def test_what_tokens_tell():
    whole = Measured(tokens=10, trained=4)
    assert found(GOOD, measured=whole) == {}
    assert "truncated" in found(GOOD, measured=dataclasses.replace(whole, cut_answer=True))
    assert "control_text" in found(GOOD, measured=dataclasses.replace(whole, control_text=True))
    report = report_of([GOOD], measured=dataclasses.replace(whole, too_long=True))
    assert {one.id for one in report.findings} == {"too_long", "nothing_kept"}
    assert [(one.cause, one.count) for one in report.dropped] == [("longer than max_length", 1)]
    assert report.parts[0].tokens == 0


def test_rows_that_cannot_be_used_are_told_apart_by_cause():
    bad = [
        DataError("messages[3]: 'content' is the number 7; it must be text"),
        DataError("messages[5]: 'content' is the number 12; it must be text"),
        BadRow("t", 3, 4, "is no JSON"),
        Skipped("both answers have the same score"),
        GOOD,
    ]
    report = report_of(bad)
    assert [(one.cause, one.count, one.places) for one in report.dropped] == [
        ("messages[N]: 'content' is the number N; it must be text", 2, ("t:1", "t:2")),
        ("is no JSON", 1, ("t:3",)),
        ("both answers have the same score", 1, ("t:4",)),
    ]
    assert {one.id: one.count for one in report.findings} == {"bad_rows": 3, "skipped": 1}
    assert {one.id for one in report_of(bad, bad_rows_end_run=False).findings} == {"bad_rows_dropped", "skipped"}


def test_many_causes_stay_few():
    report = report_of([DataError(f"cause {'x' * number}") for number in range(1, 60)])
    assert len(report.dropped) == 21
    assert sum(one.count for one in report.dropped) == 59


def test_rows_far_longer_than_the_others():
    usual = [Text(f"{number} " + "word " * 100) for number in range(20)]
    assert found(*usual, Text("longer " * 3000), near_limit=0)["long_rows"] == ("t:21",)
    assert "long_rows" not in found(*usual, Text("longer " * 500), near_limit=0)


def test_labels_are_counted_where_answers_are_labels():
    labelled = [PromptCompletion(f"Text {row}", "good" if row % 4 else " bad") for row in range(20)]
    (balance,) = report_of(labelled).balances
    assert (balance.name, balance.shares) == ("answers", (("good", 15), ("bad", 5)))
    assert report_of([PromptCompletion(f"Text {row}", f"answer {row}") for row in range(20)]).balances == ()
    assert report_of([*labelled, PromptCompletion("Text", "no label " * 10)]).balances == ()


def test_one_sided_labels():
    rows = [PromptCompletion(f"Text {row}", "yes" if row else "no") for row in range(20)]
    assert "one_sided" in found(*rows)
    assert "one_sided" not in found(*rows[:10])
    judged = [Feedback(row, good=number % 2 == 0) for number, row in enumerate(rows)]
    (balance,) = report_of(judged).balances
    assert (balance.name, dict(balance.shares)) == ("judgements", {"good": 10, "bad": 10})
    assert "one_sided" not in found(*judged)


def test_the_longer_side_of_pairs():
    report = report_of([pair("longer", "no"), pair("a", "be"), pair("aa", "bb")])
    (balance,) = report.balances
    assert dict(balance.shares) == {"chosen": 1, "rejected": 1, "equal": 1}
    assert [(one.id, one.severity, one.count) for one in report.findings if one.id == "longer_chosen"] == [
        ("longer_chosen", "info", 1)
    ]


def test_places_are_few_and_counts_are_whole():
    (finding,) = report_of([Text(f"{number} caf\ufffd") for number in range(50)]).findings
    assert (finding.count, finding.places) == (50, tuple(f"t:{line}" for line in range(1, PLACES + 1)))


def test_only_info_is_clean_and_graver_findings_come_first():
    info = Text("a@example.org")
    assert report_of([info]).verdict == "clean"
    report = report_of([info, chat("user: Hi", "assistant: "), DataError("bad")])
    assert [one.severity for one in report.findings] == ["error", "warn", "info"]
    assert (report.strict, report.verdict) == (2, "2 findings")


def test_every_rule_says_what_to_do_in_a_sentence():
    for rule in RULES.values():
        assert rule.todo.endswith(".")
        assert not rule.what.endswith(".")


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=40))
def test_the_histogram_holds_every_row_once(lengths):
    audit = Audit(near_limit=0)
    for line, tokens in enumerate(lengths, 1):
        audit.take("train", f"t:{line}", GOOD, Measured(tokens, trained=0))
    measured = audit.report().lengths
    assert measured.unit == "tokens"
    assert len(measured.bins) <= 16
    for one in measured.bins:
        assert one.count == sum(one.low <= tokens <= one.high for tokens in lengths)
    assert sum(one.count for one in measured.bins) == len(lengths)
    assert (measured.shortest, measured.longest) == (min(lengths), max(lengths))
    assert measured.longest_place == f"t:{lengths.index(max(lengths)) + 1}"


def test_nothing_of_a_row_stays_in_memory_but_its_hashes():
    audit = Audit()
    for line in range(2000):
        audit.take("train", f"file.jsonl:{line}", Text(f"marker{line} " + "filler " * 200))
    audit.report()
    kept = _texts_in(audit, set())
    assert not any("filler" in text or "marker" in text for text in kept)
    assert "file.jsonl" in kept
    assert len(kept) < 500


def _texts_in(value, seen):
    """Every str that is reachable from a value."""
    if id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set):
        inner = list(value)
    else:
        slots = [getattr(value, name) for name in getattr(value, "__slots__", ()) if hasattr(value, name)]
        inner = [*vars(value).values(), *slots] if hasattr(value, "__dict__") else slots
    return [text for one in inner for text in _texts_in(one, seen)]
