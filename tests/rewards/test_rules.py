"""What the rules that need nothing but the completion give."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ftune.core.errors import RewardError
from ftune.rewards.base import RewardSource, Score, Surroundings
from ftune.rewards.contains import Contains
from ftune.rewards.json_valid import JsonValid
from ftune.rewards.length import Length
from ftune.rewards.lexicon import Lexicon
from ftune.rewards.regex import Regex
from ftune.rewards.repetition import Repetition
from tests.rewards.conftest import chat, said


def score(source: RewardSource, *completions: str) -> list[Score]:
    """What completions get."""
    return source.open(Surroundings())(said(*completions))


def test_contains_counts_different_words_or_any() -> None:
    texts = ("Nice! Nice, and kind.", "nice", "unkind")
    assert score(Contains(words=["nice", "kind"]), *texts) == [2.0, 1.0, 0.0]
    assert score(Contains(words=["nice", "kind"], per_hit=False), *texts) == [1.0, 1.0, 0.0]
    assert score(Contains(words=["Nice"], case=True), *texts) == [1.0, 0.0, 0.0]
    with pytest.raises(ValidationError):
        Contains(words=[" "])


def test_lexicon_is_a_difference_of_different_words(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("# words\n\nsad\n very bad \n", encoding="utf-8")
    source = Lexicon.model_validate(
        {"positive": ["good", "glad"], "negative": "bad.txt"}, context={"folders": [tmp_path]}
    )
    texts = ("good good glad", "sad and very bad", "good, sad", "")
    assert not list(source.faults())
    assert score(source, *texts) == [2.0, -2.0, 0.0, 0.0]
    squashed = source.model_copy(update={"squash": 4.0})
    assert score(squashed, *texts) == pytest.approx([math.tanh(0.5), -math.tanh(0.5), 0.0, 0.0])


def test_lexicon_needs_words(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="'positive' or 'negative'"):
        Lexicon()
    (tmp_path / "none.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xff")
    for name, message in (("none.txt", "no words"), ("binary.txt", "UTF-8"), ("missing.txt", "cannot be read")):
        source = Lexicon(negative=str(tmp_path / name))
        ((place, told),) = source.faults()
        assert place == ("negative",)
        assert message in told
        with pytest.raises(RewardError, match=message):
            source.open(Surroundings())


def test_regex_matches_or_counts() -> None:
    assert score(Regex(pattern=r"(?i)yes|no"), "Well, YES and no", "maybe") == [1.0, 0.0]
    assert score(Regex(pattern=r"(?i)yes|no", score="count"), "Well, YES and no", "maybe") == [2.0, 0.0]
    assert score(Regex(pattern=r"(?s)^<a>.*</a>$"), "<a>\n</a>", "x <a></a>") == [1.0, 0.0]


def test_length_falls_off_outside_its_range() -> None:
    source = Length(unit="words", min=2, max=3, fall_off=2)
    texts = ("", "a", "a b", "a b c", "a b c d", "a b c d e", "a b c d e f")
    assert score(source, *texts) == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    penalty = source.model_copy(update={"score": "penalty"})
    assert score(penalty, *texts) == [-1.0, -0.5, 0.0, 0.0, -0.5, -1.0, -1.5]


def test_length_counts_tokens_without_the_stop_token_or_characters() -> None:
    stopped, cut = chat("a", "x", token_ids=[5, 6, 2]), chat("a", "x", token_ids=[5, 6, 7], stopped=False)
    source = Length(max=2, fall_off=1)
    assert source.open(Surroundings())([stopped, cut]) == [1.0, 0.0]
    assert score(Length(unit="characters", min=3, fall_off=3), "猫が座", "a") == pytest.approx([1.0, 1 / 3])


@pytest.mark.parametrize("keys", [{}, {"min": 3, "max": 2}, {"max": 3, "fall_off": 0}, {"min": -1}])
def test_length_needs_a_range(keys: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Length.model_validate(keys)


def test_repetition_is_the_share_of_repeated_ngrams() -> None:
    source = Repetition(ngram=2)
    assert score(source, "a b c", "a b A B", "a", "", "a a a a a") == pytest.approx([0.0, -1 / 3, 0.0, 0.0, -0.75])
    tokens = chat("a", "x", token_ids=[5, 6, 5, 6, 2])
    assert Repetition(ngram=2, unit="tokens").open(Surroundings())([tokens]) == pytest.approx([-1 / 3])


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 4))
def test_repetition_counts_each_ngram_that_came_before(words: list[str], size: int) -> None:
    ngrams = [words[start : start + size] for start in range(max(len(words) - size + 1, 0))]
    again = sum(ngram in ngrams[:place] for place, ngram in enumerate(ngrams))
    wanted = -again / len(ngrams) if ngrams else 0.0
    assert score(Repetition(ngram=size), " ".join(words)) == pytest.approx([wanted])


@pytest.mark.parametrize(
    ("completion", "plain", "fenced"),
    [
        ('{"a": 1, "b": null}', 1.0, 1.0),
        (' {"a": {}}\n', 1.0, 1.0),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', 0.0, 1.0),
        ('```\n{"a": 1}\n```', 0.0, 1.0),
        ('{"b": 1}', 0.0, 0.0),
        ('[{"a": 1}]', 0.0, 0.0),
        ('{"a": NaN}', 0.0, 0.0),
        ('{"a": 1} and more', 0.0, 0.0),
        ("{'a': 1}", 0.0, 0.0),
        ('{"a":' * 100_000, 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_json_valid(completion: str, plain: float, fenced: float) -> None:
    assert score(JsonValid(required=["a"]), completion) == [plain]
    assert score(JsonValid(required=["a"], fenced=True), completion) == [fenced]
