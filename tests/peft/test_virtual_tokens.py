"""Virtual tokens through the product: loss, generation and classification are what the saved tensors alone say.

The reference reads the adapter's file and the base model, and neither peft nor a cache across steps.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftune.core.variants import variants_of
from ftune.data.example import Conversation, Message
from ftune.data.template import choose_template
from ftune.data.tokenize import RowTokenizer
from ftune.evals.generate import generate
from ftune.peft.adapters import load_adapter
from ftune.peft.base import PeftMethod
from ftune.report.events import read_events
from tests.conftest import Done, chat_rows, write_rows

METHODS = ["p_tuning", "p_tuning_v2", "prefix", "prompt"]
ROWS = [[40, 41, 42, 43, 44, 45, 46], [50, 51], [60, 61, 62, 63], [70]]


def by_hand(base: Any, prompt: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """Logits of one row, shape (tokens + 1, vocabulary), the first from the last virtual token, where that has one."""
    from transformers import DynamicCache

    config, tokens = base.config, torch.tensor([ids])
    with torch.no_grad():
        if prompt.shape[1] == config.hidden_size:  # embeddings
            inputs = torch.cat([prompt[None], base.get_input_embeddings()(tokens)], dim=1)
            logits = base(inputs_embeds=inputs, use_cache=False).logits
        else:  # for each token: keys of layer 0, values of layer 0, keys of layer 1, ...
            heads = prompt.view(1, len(prompt), 2 * config.num_hidden_layers, config.num_key_value_heads, -1)
            cache = DynamicCache()
            for layer in range(config.num_hidden_layers):
                cache.update(heads[:, :, 2 * layer].transpose(1, 2), heads[:, :, 2 * layer + 1].transpose(1, 2), layer)
            logits = base(input_ids=tokens, past_key_values=cache).logits
    return logits[0, -len(ids) :]


def saved(folder: Path) -> torch.Tensor:
    return load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]


def loaded(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def wrapped(name: str, model: Any) -> Any:
    torch.manual_seed(7)
    return variants_of(PeftMethod)[name].model_validate({"type": name, "virtual_tokens": 5}).wrap(model).eval()


@pytest.mark.parametrize("name", METHODS)
def test_the_losses_of_a_run_are_those_computed_by_hand(
    recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path, tiny_model: Path, name: str
) -> None:
    from transformers import AutoTokenizer

    rows = chat_rows(6)
    write_rows(tmp_path / "six.jsonl", rows)
    path = recipe(
        data={"train": "six.jsonl", "validation": "six.jsonl", "max_length": 128},
        peft={"type": name, "virtual_tokens": 5},
        schedule={"max_steps": 1},
        batch={"micro_batch_size": 6},
        optim={"learning_rate": 1e-9},
        checkpoint={"every": 1},
        backend={"device": "cpu"},
    )
    done = ftune("sft", path)
    assert done.code == 0, done.err
    base, prompt = loaded(tiny_model), saved(tmp_path / "runs/tiny/adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    encoder = RowTokenizer(tokenizer, choose_template(tokenizer), mask="last")
    total, correct, count = 0.0, 0, 0
    for row in rows:
        turns: Any = row["messages"]
        encoded = encoder.encode(Conversation([Message(turn["role"], turn["content"]) for turn in turns]))
        ids, labels = encoded.input_ids, torch.tensor(encoded.labels[1:])
        logprobs = by_hand(base, prompt, ids)[:-1].log_softmax(-1)[labels != -100]
        wanted = labels[labels != -100]
        total -= float(logprobs.gather(1, wanted[:, None]).sum())
        correct += int((logprobs.argmax(-1) == wanted).sum())
        count += len(wanted)
    events = read_events(tmp_path / "runs/tiny/events.jsonl")
    (step,) = (event for event in events if event["kind"] == "step")
    *_, evaluation = (event for event in events if event["kind"] == "eval")
    assert step["loss"] == pytest.approx(total / count, rel=1e-4)
    assert evaluation["loss"] == pytest.approx(total / count, rel=1e-4)
    assert evaluation["token_accuracy"] == pytest.approx(correct / count)
    assert evaluation["tokens"] == count


@pytest.mark.parametrize("name", METHODS)
def test_generation_is_greedy_decoding_by_hand_however_it_is_batched(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    stop = int(tokenizer.eos_token_id)
    trained = wrapped(name, loaded(tiny_model))
    trained.save_pretrained(tmp_path)
    base, prompt = loaded(tiny_model), saved(tmp_path)
    wanted = []
    for row in ROWS:
        ids = list(row)
        while len(ids) < len(row) + 12 and ids[-1] != stop:
            ids.append(int(by_hand(base, prompt, ids)[-1].argmax()))
        wanted.append(tokenizer.decode(ids[len(row) :], skip_special_tokens=True))
    assert len(set(wanted)) > 1
    again: Any = load_adapter(loaded(tiny_model), tmp_path)
    for model in (trained, again):
        for size in (1, 4):
            made = generate(model, tokenizer, ROWS, stop_ids=[stop], max_new_tokens=12, batch_size=size)
            assert made == wanted
    with again.disable_adapter():
        off = generate(again, tokenizer, ROWS, stop_ids=[stop], max_new_tokens=12, batch_size=4)
    assert off == generate(base, tokenizer, ROWS, stop_ids=[stop], max_new_tokens=12, batch_size=4)
    assert off != wanted


def padded(model: Any) -> torch.Tensor:
    """Scores of the rows in one batch, padded on the right."""
    width = max(map(len, ROWS))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ROWS])
    with torch.no_grad():
        scores: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return scores


def alone(model: Any) -> torch.Tensor:
    """Scores of the rows one by one."""
    with torch.no_grad():
        return torch.cat(
            [model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row))).logits for row in ROWS]
        )


@pytest.mark.parametrize("name", METHODS)
def test_a_classifier_scores_padded_rows_as_it_does_alone(name: str, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    def build() -> Any:
        torch.manual_seed(1)
        return AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)

    trained = wrapped(name, build())
    trained.save_pretrained(tmp_path)
    for model in (trained, load_adapter(build(), tmp_path)):
        assert torch.allclose(padded(model), alone(model), atol=1e-5)


def test_a_classifier_that_reads_its_first_place_keeps_it() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    model = wrapped("prompt", BertForSequenceClassification(config))
    assert torch.allclose(padded(model), alone(model), atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_evaluated(recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / "test.jsonl", chat_rows(3, start=50))
    assert ftune("sft", recipe(peft=name, schedule={"max_steps": 2})).code == 0
    done = ftune("eval", "runs/tiny", "rows=test.jsonl", "max_new_tokens=4", "micro_batch_size=2")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "runs/tiny/eval/eval.json").read_text())["rows"] == 3
