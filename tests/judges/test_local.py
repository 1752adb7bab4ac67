"""A model on this machine as the judge, against likelihoods computed one question at a time."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.core.errors import DataError, ModelError
from ftune.judges.base import Pair, Verdict
from ftune.judges.local import HOW_TO_REPLY, Local
from ftune.judges.orders import Choice, combined
from ftune.judges.question import question
from ftune.rewards.base import Surroundings
from tests.conftest import WORDS
from tests.judges.conftest import SHORT, pair

PAIRS = [pair(" ".join(WORDS[at : at + 1 + at % 4]), " ".join(WORDS[at + 3 : at + 9])) for at in range(12)]


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has opinions: weights so large that what it reads decides which letter is the likeliest."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    made = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(tiny_model, initializer_range=1.0, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(made)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    """The same, as its model and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def by_hand(loaded: tuple[Any, Any], shown: Pair) -> Choice:
    """The likeliest letter behind the rendered question."""
    model, tokenizer = loaded
    turn = {"role": "user", "content": question(SHORT, shown, HOW_TO_REPLY)}
    text = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(text).input_ids])).logits[0, -1]
    likelihoods = {letter: float(logits[tokenizer.convert_tokens_to_ids(letter)]) for letter in "ABC"}
    meaning: dict[str, Choice] = {"A": "first", "B": "second", "C": "tie"}
    return meaning[max(likelihoods, key=likelihoods.__getitem__)]


def judge(model: Path, pairs: list[Pair], size: int = 4, **keys: Any) -> tuple[list[Verdict], list[str], list[int]]:
    """The verdicts, what was remarked, and the progress."""
    remarks: list[str] = []
    seen: list[int] = []
    around = Surroundings(dtype="fp32", micro_batch_size=size, remark=remarks.append)
    ask = Local(path=str(model), **({"prompt": SHORT} | keys)).open(around)
    return ask(pairs, seen.append), remarks, seen


@pytest.mark.parametrize("size", [1, 5])
def test_verdicts_are_those_of_likelihoods_by_hand_in_both_orders(
    folder: Path, loaded: tuple[Any, Any], size: int
) -> None:
    straight = [by_hand(loaded, each) for each in PAIRS]
    turned = [by_hand(loaded, pair(each.second, each.first)) for each in PAIRS]
    verdicts, remarks, seen = judge(folder, PAIRS, size)
    assert verdicts == [combined(*both) for both in zip(straight, turned, strict=True)]
    assert set(verdicts) == {"first", "second", "inconsistent"}  # so that one order alone would have other verdicts
    assert remarks == []
    assert seen == sorted(seen)
    assert seen[-1] == len(PAIRS)


def test_what_is_too_long_is_missing_and_said_once(folder: Path) -> None:
    long = pair("the cat " * 100, "a", origin="rows.jsonl:7")
    verdicts, remarks, _ = judge(folder, [PAIRS[0], long, long])
    assert verdicts[0] is not None
    assert verdicts[1:] == [None, None]
    (remark,) = remarks
    assert "rows.jsonl:7" in remark
    assert "tokens, and the model reads 256 at most" in remark


def test_likelihoods_that_are_no_numbers_are_no_verdict(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = loaded
    broken = deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    broken.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert judge(tmp_path, PAIRS[:2])[0] == [None, None]


def test_a_model_that_cannot_be_asked_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    with pytest.raises(DataError, match="no such chat template"):
        judge(tiny_model, [], chat_template="chatnl")
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no chat template to ask with; name one with 'chat_template'"):
        judge(tmp_path, [])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content|replace('B', 'A') }}<|im_end|>{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be asked for a letter: the label words 'A' and 'B'"):
        judge(tmp_path, [])


def test_files_that_are_not_there_are_faults(tmp_path: Path) -> None:
    judge = Local(path=str(tmp_path), chat_template="none.jinja")
    assert [place for place, _ in judge.faults()] == [("path",), ("chat_template",)]
