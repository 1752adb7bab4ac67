"""A reward model as the judge, against its scores by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.data.template import choose_template
from ftune.data.tokenize import RowTokenizer
from ftune.judges.base import Pair, Verdict
from ftune.judges.reward import Reward
from ftune.rewards.base import Surroundings
from tests.conftest import WORDS
from tests.judges.conftest import pair

PAIRS = [pair(WORDS[at], " ".join(WORDS[at : at + 3])) for at in range(9)]
RAW = [Pair("the cat ", each.first, each.second) for each in PAIRS]


@pytest.fixture(scope="module")
def scorer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with one score."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("scorer")
    torch.manual_seed(0)
    LlamaForSequenceClassification(LlamaConfig.from_pretrained(tiny_model, num_labels=1)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def margins(scorer: Path, pairs: list[Pair]) -> list[float]:
    """The score of the first answer less that of the second, one row at a time."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from ftune.data.example import Conversation, Message, PromptCompletion

    model = AutoModelForSequenceClassification.from_pretrained(scorer).eval()
    tokenizer = AutoTokenizer.from_pretrained(scorer)
    encoder = RowTokenizer(tokenizer, choose_template(tokenizer))

    def score(prompt: Any, answer: str) -> float:
        if isinstance(prompt, str):
            ids = encoder.encode(PromptCompletion(prompt, answer)).input_ids
        else:
            ids = encoder.encode(Conversation((*prompt.messages, Message("assistant", answer)))).input_ids
        with torch.no_grad():
            return float(model.score(model.model(torch.tensor([ids])).last_hidden_state[0, -1])[0])

    return [score(each.prompt, each.first) - score(each.prompt, each.second) for each in pairs]


def judge(scorer: Path, pairs: list[Pair], **keys: Any) -> tuple[list[Verdict], list[int]]:
    """The verdicts and the progress."""
    seen: list[int] = []
    around = Surroundings(dtype="fp32", micro_batch_size=1)
    return Reward(path=str(scorer), **keys).open(around)(pairs, seen.append), seen


@pytest.mark.parametrize("pairs", [PAIRS, RAW], ids=["chats", "texts"])
def test_the_higher_score_wins_and_within_the_margin_is_a_tie(scorer: Path, pairs: list[Pair]) -> None:
    differences = margins(scorer, pairs)
    assert min(map(abs, differences)) > 1e-4  # farther from a tie than any rounding
    assert {value > 0 for value in differences} == {True, False}
    verdicts, seen = judge(scorer, pairs)
    assert verdicts == ["first" if value > 0 else "second" for value in differences]
    assert seen == [8, 9]
    sizes = sorted(map(abs, differences))
    margin = (sizes[3] + sizes[4]) / 2
    wide, _ = judge(scorer, pairs, margin=margin)
    assert wide == [
        "tie" if abs(value) <= margin else verdict for value, verdict in zip(differences, verdicts, strict=True)
    ]


def test_turned_pairs_have_turned_verdicts_and_equal_answers_are_a_tie(scorer: Path) -> None:
    straight, _ = judge(scorer, [*PAIRS, pair("cat", "cat")])
    turned, _ = judge(scorer, [pair(each.second, each.first) for each in PAIRS])
    assert [{"first": "second", "second": "first"}[str(verdict)] for verdict in turned] == straight[:-1]
    assert straight[-1] == "tie"


def test_a_score_that_is_no_number_is_no_verdict(scorer: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(scorer)
    with torch.no_grad():
        model.score.weight[0, 0] = float("inf")
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(scorer).save_pretrained(tmp_path)
    assert judge(tmp_path, PAIRS[:2])[0] == [None, None]


def test_a_path_without_a_model_is_a_fault(tmp_path: Path) -> None:
    ((place, problem),) = Reward(path=str(tmp_path)).faults()
    assert place == ("path",)
    assert "no model" in problem
