"""Perplexity against one row at a time, in float64."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from ftune.core.errors import DataError
from ftune.evals import perplexity as module
from ftune.evals.perplexity import LabelledRow, perplexity

VOCABULARY = 96


def rows(count: int, seed: int = 0) -> list[LabelledRow]:
    """Rows of 2 to 24 tokens, about a third of them counted, the first one and the pad id 0 among them."""
    draw = random.Random(seed)  # noqa: S311
    made = []
    for _ in range(count):
        ids = [draw.randrange(VOCABULARY) for _ in range(draw.randint(2, 24))]
        made.append((ids, [token if draw.random() < 0.35 else -100 for token in ids]))
    return made


def slowly(model: Any, given: list[LabelledRow]) -> tuple[float, int, float]:
    """Loss, counted tokens and accuracy: a token at a time, log-softmax in float64."""
    losses, right = [], []
    for ids, labels in given:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].double()
        for place in range(1, len(ids)):
            if labels[place] != -100:
                losses.append(-torch.log_softmax(logits[place - 1], 0)[labels[place]].item())
                right.append(logits[place - 1].argmax().item() == labels[place])
    return sum(losses) / len(losses), len(losses), sum(right) / len(right)


def gemma() -> Any:
    """A model that caps its logits behind the head, here so low that nobody can miss it."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Gemma2ForCausalLM(
        Gemma2Config(vocab_size=VOCABULARY, initializer_range=0.3, final_logit_softcapping=1.5, **sizes, **heads)
    )


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=4))


@pytest.fixture
def llama(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")


def agree(model: Any, given: list[LabelledRow], batch_size: int) -> None:
    loss, tokens, accuracy = slowly(model.eval(), given)
    found = perplexity(model, given, batch_size=batch_size)
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert (found.tokens, found.accuracy) == (tokens, accuracy)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_it_is_that_of_one_row_at_a_time(llama: Any, batch_size: int) -> None:
    agree(llama, rows(20), batch_size)


@pytest.mark.parametrize("make", [gemma, gpt2])
def test_other_families(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    agree(make(), rows(12, seed=1), 4)


def test_the_head_is_used_alone_only_where_it_gives_the_models_own_logits(llama: Any) -> None:
    row = rows(1)[0][0]
    assert module._parts(llama, row)[1] is llama.lm_head
    capped = gemma().eval()
    assert module._parts(capped, row)[1] is not capped.lm_head


def test_it_is_the_loss_of_training(llama: Any) -> None:
    ids, labels = rows(1, seed=3)[0]
    trained = llama(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
    assert perplexity(llama, [(ids, labels)], batch_size=1).loss == pytest.approx(trained, rel=1e-5)


def test_few_positions_at_a_time_change_nothing(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = perplexity(llama, rows(9), batch_size=4)
    widths: list[int] = []
    llama.lm_head.register_forward_hook(lambda head, given, made: widths.append(made.numel() // made.shape[-1]))
    monkeypatch.setattr(module, "POSITIONS", 5)
    pieces = perplexity(llama, rows(9), batch_size=4)
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-6)
    assert max(widths[2:]) == 5  # behind the two of the trial


def test_progress_and_rows_that_count_nothing(llama: Any) -> None:
    done: list[int] = []
    some = rows(3)
    nothing: list[LabelledRow] = [([5], [5]), ([], []), ([5, 6], [5, -100])]
    both = perplexity(llama, [*nothing, *some], batch_size=2, told=done.append)
    assert done == [2, 1]
    assert both.loss == pytest.approx(perplexity(llama, some, batch_size=2).loss, rel=1e-6)
    with pytest.raises(DataError, match="no token of these rows is counted"):
        perplexity(llama, nothing, batch_size=2)


def test_a_hopeless_model_has_an_infinite_perplexity(llama: Any) -> None:
    with torch.no_grad():
        llama.lm_head.weight.mul_(1e6)
    found = perplexity(llama, rows(3), batch_size=2)
    assert found.loss > 1000
    assert found.perplexity == math.inf
