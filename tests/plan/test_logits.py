"""The fused loss at its highest: the formula against the tensors that really stand beside each other."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ftune.plan.adapter import Adapter
from ftune.plan.families import shape_of_config
from ftune.plan.job import BYTES, Job
from ftune.plan.logits import head_bytes, kept_after
from ftune.rl.cross_entropy import cross_entropy

TOKENS, WORDS, HIDDEN = 4_500, 768, 32
"""More tokens than are computed at once; a vocabulary that makes numbers a token small."""

NUMBERS = 64
"""Bytes a token of sums, places and the like, which the formula leaves out."""

CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": WORDS,
    "tie_word_embeddings": False,
}


class Meter(TorchDispatchMode):
    """Counts bytes of tensors that are made while it is on, until they are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self.add(one)
        return made

    def add(self, tensor: torch.Tensor) -> None:
        """A tensor that is there."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen and storage.nbytes():
            self.seen.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def measured(products: torch.dtype, *, full: bool, softcap: float | None) -> int:
    """Bytes at the highest point of the loss, hidden states included, and frozen weights not."""
    torch.manual_seed(0)
    stream = torch.float32 if full else products
    weight = torch.randn(WORDS, HIDDEN, dtype=stream, requires_grad=full)
    targets, places = torch.randint(WORDS, (TOKENS,)), torch.arange(TOKENS)
    with Meter() as meter, torch.autocast("cpu", torch.bfloat16, enabled=products != torch.float32):
        hidden = torch.randn(TOKENS, HIDDEN, dtype=stream).requires_grad_()
        found = cross_entropy(hidden.index_select(0, places), weight, targets, softcap=softcap)
        kept = meter.most
    del found
    return kept


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("products", [torch.bfloat16, torch.float32])
def test_the_fused_loss_takes_what_the_formula_says(products: torch.dtype, full: bool, softcap: float | None) -> None:
    shape = shape_of_config({**CONFIG, "model_type": "gemma2" if softcap else "llama"})
    job = Job(
        shape=shape,
        adapter=Adapter(base=shape.parameters) if full else Adapter(),
        dtype="bf16" if products == torch.bfloat16 else "fp32",
        micro_batch_size=1,
        tokens=TOKENS,
        loss="fused",
        on_gpu=False,
    )
    found = measured(products, full=full, softcap=softcap)
    assert abs(found - head_bytes(job)) <= NUMBERS * TOKENS
    assert kept_after(job) == (4 * WORDS * HIDDEN if full else 0)


def test_fewer_tokens_than_are_computed_at_once_have_fewer_logits() -> None:
    job = Job(shape=shape_of_config(CONFIG), micro_batch_size=1, loss="fused", on_gpu=True)
    few, many, more = (head_bytes(Job(**{**vars_of(job), "tokens": tokens})) for tokens in (100, 4_096, 8_192))
    logits = BYTES["bf16"] * WORDS
    assert many - few == (4_096 - 100) * (logits + 3 * BYTES["bf16"] * HIDDEN)
    assert more - many == 4_096 * 3 * BYTES["bf16"] * HIDDEN


def vars_of(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__slots__}
