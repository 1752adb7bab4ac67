"""What every reward source promises, run on each file of `ftune/rewards` by discovery."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ftune.core.variants import union_of, variants_of
from ftune.rewards.base import RewardSource, Sample, Scorer, Surroundings
from tests.rewards.conftest import chat, text
from tests.stand_in_server import Reply, serving

SOURCES = variants_of(RewardSource)

FUNCTION = """
def by_length(completions, **columns):
    return [float(len(answer[0]["content"] if isinstance(answer, list) else answer)) for answer in completions]
"""

BAD: dict[str, dict[str, object]] = {
    "classifier": {"transform": "softmax"},
    "contains": {"words": []},
    "function": {"function": "no_colon.py"},
    "http": {"url": "localhost:8000"},
    "json_valid": {"required": "name"},
    "length": {"min": 5, "max": 2},
    "lexicon": {"squash": 0.0},
    "model": {"share_base": "sometimes"},
    "numeric": {"column": 3},
    "regex": {"pattern": "("},
    "repetition": {"ngram": 0},
}
"""Settings that a recipe is refused for, by `type`."""

COMPLETIONS = ["", "the cat sat", "Ünïcödé 猫が座った 🐈", "nice " * 9, '{"a": 1}', "#### 42", "the mat\n\n\tend"]


def lengths(asked: dict[str, Any]) -> Reply:
    """The length of each completion."""
    found = [len(answer[0]["content"] if isinstance(answer, list) else answer) for answer in asked["completions"]]
    return Reply(json.dumps({"rewards": found}).encode())


@pytest.fixture(scope="module")
def settings(scalar: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """What each source needs, by its `type`."""
    file = tmp_path_factory.mktemp("functions") / "mine.py"
    file.write_text(FUNCTION)
    with serving(lengths, "/") as service:
        yield {
            "classifier": {"path": str(bert), "label": "toxic"},
            "contains": {"words": ["cat", "猫"]},
            "function": {"function": f"{file}:by_length"},
            "http": {"url": service.url},
            "json_valid": {},
            "length": {"min": 2, "max": 4},
            "lexicon": {"positive": ["nice"], "negative": ["cat"]},
            "model": {"path": str(scalar)},
            "numeric": {},
            "regex": {"pattern": "[a-z]+"},
            "repetition": {"ngram": 2},
        }


@pytest.fixture(scope="module")
def scorers(settings: dict[str, dict[str, Any]]) -> dict[str, Scorer]:
    """Every source, open."""
    around = Surroundings(micro_batch_size=3)
    return {name: made(name, given).open(around) for name, given in settings.items()}


def made(name: str, given: dict[str, Any]) -> RewardSource:
    """The source as a recipe makes it."""
    source = TypeAdapter(union_of(RewardSource)).validate_json(json.dumps({"type": name, **given}))
    assert isinstance(source, RewardSource)
    return source


def samples(kind: Any) -> list[Sample]:
    """One sample of each completion."""
    return [
        kind("how many?", words, reference="#### 42", origin=f"rows.jsonl:{n}") for n, words in enumerate(COMPLETIONS)
    ]


def test_every_source_is_tried(settings: dict[str, dict[str, Any]]) -> None:
    assert settings.keys() == BAD.keys() == SOURCES.keys()


@pytest.mark.parametrize("kind", [chat, text])
@pytest.mark.parametrize("name", SOURCES)
def test_one_finite_number_each_whatever_the_order_and_the_batch(
    scorers: dict[str, Scorer], name: str, kind: Any
) -> None:
    score, rows = scorers[name], samples(kind)
    together = score(rows)
    assert len(together) == len(rows)
    assert all(isinstance(number, float) and abs(number) < 1e6 for number in together)
    assert len(set(together)) > 1  # it tells completions apart
    alone = [score([sample])[0] for sample in rows]
    assert together == pytest.approx(alone, abs=1e-5)
    order = [3, 0, 6, 1, 5, 2, 4]
    assert score([rows[place] for place in order]) == pytest.approx([together[place] for place in order], abs=1e-5)


@pytest.mark.parametrize("name", SOURCES)
def test_no_samples_no_numbers(scorers: dict[str, Scorer], name: str) -> None:
    assert scorers[name]([]) == []


@pytest.mark.parametrize("name", SOURCES)
def test_settings_are_checked_at_their_key(settings: dict[str, dict[str, Any]], name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        made(name, settings[name] | BAD[name])
    named = str(caught.value)
    assert any(key in named for key in BAD[name])
    with pytest.raises(ValidationError, match="extra_forbidden"):
        made(name, {**settings[name], "wieght": 1.0})


@pytest.mark.parametrize("name", SOURCES)
def test_a_whole_set_of_settings_has_no_faults(settings: dict[str, dict[str, Any]], name: str) -> None:
    assert list(made(name, settings[name]).all_faults()) == []


@pytest.mark.parametrize("name", SOURCES)
def test_its_title_is_its_name_or_its_type(settings: dict[str, dict[str, Any]], name: str) -> None:
    assert made(name, settings[name]).title() == name
    assert made(name, {**settings[name], "name": "mine"}).title() == "mine"
