"""Samples, and tiny models that score them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.data.example import Conversation, Message, PromptCompletion
from ftune.models.reward_facts import RewardFacts
from ftune.rewards.base import Sample

WORD_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "sat", "mat", "awful", "nice", "##s", "on", "the"]


def chat(prompt: str, completion: str, **other: Any) -> Sample:
    """A sample of a conversation, with as many made-up tokens as words, and the stop token."""
    messages = (Message("user", prompt), Message("assistant", completion))
    given = {"token_ids": [*range(5, 5 + len(completion.split())), 2], "stopped": True, "origin": "rows.jsonl:1"}
    return Sample(Conversation(messages), completion, **(given | other))


def text(prompt: str, completion: str, **other: Any) -> Sample:
    """The same of a prompt without a chat."""
    sample = chat(prompt, completion, **other)
    return Sample(
        PromptCompletion(prompt, completion),
        completion,
        sample.token_ids,
        sample.stopped,
        sample.columns,
        sample.reference,
        sample.origin,
    )


def said(*completions: str) -> list[Sample]:
    """Samples that differ in their completions and rows alone."""
    return [chat("the cat", words, origin=f"rows.jsonl:{line}") for line, words in enumerate(completions, start=1)]


@pytest.fixture(scope="session")
def pad_is_eos(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder with a Llama classifier of any number of labels, whose pad token is its end of text."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    def make(labels: list[str], facts: RewardFacts | None = None, **config: Any) -> Path:
        folder = tmp_path_factory.mktemp("classifier")
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.pad_token = tokenizer.eos_token
        torch.manual_seed(len(labels))
        made = LlamaConfig.from_pretrained(tiny_model, pad_token_id=tokenizer.pad_token_id, **config)
        made.id2label = dict(enumerate(labels))
        LlamaForSequenceClassification(made).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if facts is not None:
            facts.write(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def scalar(pad_is_eos: Callable[..., Path]) -> Path:
    """A model with one score."""
    return pad_is_eos(["score"])


@pytest.fixture(scope="session")
def classes(pad_is_eos: Callable[..., Path]) -> Path:
    """A causal model with three classes."""
    return pad_is_eos(["bad", "fair", "good"])


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with two classes."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORD_PIECES) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), model_max_length=24)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORD_PIECES),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        id2label={0: "fine", 1: "toxic"},
        label2id={"fine": 0, "toxic": 1},
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a LoRA reward model on the tiny model, as `ftune rm` leaves it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from ftune.data.template import choose_template
    from ftune.models.fingerprint import base_fingerprint
    from ftune.peft.lora import Lora

    run = tmp_path_factory.mktemp("rm")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    method = Lora(rank=4)
    model = method.wrap(base)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    method.export(model, run / "adapter")
    tokenizer.save_pretrained(run / "adapter")
    template = choose_template(tokenizer).sha256
    facts = RewardFacts("scalar", str(tiny_model), base_fingerprint(str(tiny_model)), template, mean=0.5, std=2.0)
    facts.write(run / "adapter")
    return run
