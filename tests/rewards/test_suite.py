"""Several sources as one: sums, titles, what is left out, and the check before the first rollout."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ftune.core.errors import ModelError, RewardError
from ftune.data.example import Conversation, Message
from ftune.rewards.base import Sample, Scorer, Surroundings
from ftune.rewards.contains import Contains
from ftune.rewards.length import Length
from ftune.rewards.model import RewardModel
from ftune.rewards.numeric import Numeric
from ftune.rewards.suite import RewardSuite
from tests.rewards.conftest import chat, said, text


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Contains]:
    """A source of any behaviour, made from one that there is."""
    scorers: dict[str, Scorer] = {}
    monkeypatch.setattr(Contains, "open", lambda self, _: scorers[self.words[0]])

    def make(scorer: Callable[[Sequence[Sample]], Any], **keys: Any) -> Contains:
        scorers[str(len(scorers))] = scorer
        return Contains(words=[str(len(scorers) - 1)], **keys)

    return make


def test_the_total_is_the_weighted_sum_and_raw_numbers_stay_raw() -> None:
    suite = RewardSuite(
        [Contains(words=["cat"], weight=2.0), Length(unit="words", max=2, fall_off=2, weight=-0.5)], Surroundings()
    )
    scores = suite.score(said("a cat", "a big cat", "dogs"))
    assert scores.by_source == {"contains": [1.0, 1.0, 0.0], "length": [1.0, 0.5, 1.0]}
    assert scores.total == pytest.approx([1.5, 1.75, -0.5])


def test_equal_titles_are_numbered() -> None:
    suite = RewardSuite(
        [
            Contains(words=["a"]),
            Contains(words=["b"]),
            Contains(words=["c"], name="contains_2"),
            Contains(words=["d"], name="mine"),
        ],
        Surroundings(),
    )
    assert suite.titles == ["contains", "contains_2", "contains_2_2", "mine"]
    assert list(suite.score(said("b")).by_source) == suite.titles


def test_a_source_that_says_nothing_leaves_the_sample_out_unless_it_has_no_weight() -> None:
    rows = [chat("?", "7", reference="7"), chat("?", "7", reference="seven")]
    counts = RewardSuite([Numeric(), Contains(words=["7"])], Surroundings()).score(rows)
    assert counts.total == [2.0, None]
    logged = RewardSuite([Numeric(weight=0.0), Contains(words=["7"])], Surroundings()).score(rows)
    assert logged.total == [1.0, 1.0]
    assert logged.by_source["numeric"] == [1.0, None]


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (lambda samples: [0.0], "reward 'mine': rows.jsonl:1 to rows.jsonl:2: returned 1 numbers for 2 samples"),
        (lambda samples: [0.0, float("inf")], r"reward 'mine': rows\.jsonl:2: returned inf"),
        (lambda samples: "00", "reward 'mine': returned '00'"),
    ],
)
def test_every_source_is_checked(source: Callable[..., Contains], scorer: Scorer, message: str) -> None:
    suite = RewardSuite([Length(max=3), source(scorer, name="mine", weight=0.0)], Surroundings())
    with pytest.raises(RewardError, match=message):
        suite.score(said("a", "b"))


@pytest.mark.parametrize(("score", "weight"), [(1e300, 1.0), (-1e30, 1e10)])
def test_what_fp32_does_not_hold_is_no_score(source: Callable[..., Contains], score: float, weight: float) -> None:
    suite = RewardSuite([source(lambda samples: [0.0, score], weight=weight)], Surroundings())
    with pytest.raises(RewardError, match=r"^rewards: rows\.jsonl:2: their weighted sum is -?1e\+\d+, .* scale"):
        suite.score(said("a", "b"))


def test_errors_while_opening_name_the_source() -> None:
    with pytest.raises(ModelError, match=r"^reward 'model': no such file or folder '\./none'"):
        RewardSuite([RewardModel(path="./none")], Surroundings())


def test_the_check_tries_empty_and_short_completions_on_the_first_prompts(source: Callable[..., Contains]) -> None:
    seen: list[Sample] = []

    def keep(samples: Sequence[Sample]) -> list[float]:
        seen.extend(samples)
        return [0.0] * len(samples)

    suite = RewardSuite([source(keep)], Surroundings())
    prompts = [text("hello", "long"), *(chat(str(number), "long") for number in range(5))]
    suite.check(prompts)
    assert [sample.completion for sample in seen] == ["", "Yes."] * 4
    assert [sample.example for sample in seen[2:4]] == [
        Conversation((Message("user", "0"), Message("assistant", words))) for words in ("", "Yes.")
    ]
    assert {(sample.origin, sample.stopped) for sample in seen} == {("rows.jsonl:1", True)}
    assert [len(sample.token_ids) for sample in seen[:2]] == [1, 2]


def test_the_check_raises_before_anything_is_rolled_out() -> None:
    with pytest.raises(RewardError, match=r"reward 'numeric': rows\.jsonl:1"):
        RewardSuite([Numeric()], Surroundings()).check([chat("?", "")])
