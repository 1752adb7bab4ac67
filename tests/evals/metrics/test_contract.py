"""What holds for every metric, and the choice among them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ftune.core.variants import union_of, variants_of
from ftune.evals.metrics.base import Answer, Metric, clash, score_all
from ftune.evals.metrics.choose import metrics_for

NEEDED: dict[str, dict[str, Any]] = {"regex": {"pattern": "a"}}
METRICS = [cls.model_validate({"type": name, **NEEDED.get(name, {})}) for name, cls in variants_of(Metric).items()]
TEXT = st.sampled_from(["", "a cat", "the cat sat on the mat", '{"a": 1}', "#### 4", "4", "\ud83d\ude00", "猫", "\x00"])
ANSWERS = st.lists(st.builds(Answer, TEXT, st.lists(TEXT, max_size=2).map(tuple)), max_size=5)


def test_every_file_is_a_metric() -> None:
    names = "bleu chrf contains empty exact_match json_fields length numeric regex repetition rouge ter"
    assert list(variants_of(Metric)) == names.split()


@settings(max_examples=30, deadline=None)
@given(ANSWERS, st.randoms(use_true_random=False))
def test_rows_do_not_depend_on_each_other_nor_on_their_order(answers: list[Answer], random: Any) -> None:
    order = list(range(len(answers)))
    random.shuffle(order)
    mixed = score_all(METRICS, [answers[place] for place in order])
    for name, straight in score_all(METRICS, answers).items():
        assert [straight.rows[place] for place in order] == list(mixed[name].rows), name
        assert straight.value == pytest.approx(mixed[name].value), name
        assert straight.kind.scale != "share" or all(value is None or 0 <= value <= 1 for value in straight.rows)


@pytest.mark.parametrize("metric", METRICS, ids=Metric.title)
def test_no_rows_and_rows_without_references_have_no_value(metric: Metric) -> None:
    assert {scored.value for scored in metric.score([]).values()} == {None}
    assert list(metric.score([])) == list(metric.kinds())
    scored = metric.score([Answer("a cat on a mat", ()), Answer("", ())])
    if message := metric.unfit([(), ()]):
        assert message == "the rows have no answers to compare with"
        assert all(set(one.rows) == {None} for name, one in scored.items() if name != "json_valid")
    else:
        assert all(one.missing < 2 for one in scored.values())


def test_a_name_makes_two_of_a_kind_differ() -> None:
    parsed = TypeAdapter(list[union_of(Metric)]).validate_python  # type: ignore[misc]
    two = [{"type": "regex", "pattern": "a"}, {"type": "rouge"}]
    assert clash(parsed([*two, "exact_match"])) == ""
    assert clash(parsed([*two, two[0]])) == "'regex' and 'regex' both give 'regex'; give one of them a 'name'"
    assert "'rouge1'" in clash(parsed([*two, {"type": "exact_match", "name": "rouge1"}]))
    named = parsed(
        [*two, {"type": "regex", "pattern": "b", "name": "b"}, {"type": "rouge", "stemmer": True, "name": "s"}]
    )
    assert clash(named) == ""
    scored = score_all(named, [Answer("a cats", ("cat",))])
    assert (scored["regex"].value, scored["b"].value) == (1, 0)
    assert (scored["rouge1_recall"].value, scored["s.rouge1_recall"].value) == (0, 1)


@pytest.mark.parametrize(
    ("references", "chosen"),
    [
        ([["{}"], ['{"a": 1}']], ["exact_match", "json_fields"]),
        ([["{}"], ["{no"]], ["exact_match"]),
        ([["5"], ["-1,200.50"]], ["exact_match", "numeric"]),
        ([["so 2 + 3 = 5\n#### 5"]], ["exact_match", "numeric"]),
        ([["yes"], ["no"]], ["exact_match"]),
        ([["In 1999 there was a cat on a mat."]], ["exact_match", "rouge", "bleu", "chrf"]),
        ([["猫坐在垫子上, 狗在花园里, 鸟在树上唱歌, 鱼在水里游来游去。"]], ["exact_match", "chrf"]),
        ([[""], [""]], ["exact_match"]),
        ([[], []], []),
        ([], []),
    ],
)
def test_auto_takes_what_the_references_can_feed(references: list[list[str]], chosen: list[str]) -> None:
    assert [each.title() for each in metrics_for(references)] == [*chosen, "length", "repetition", "empty"]
