"""Packing is exact, or refused: rows in one sequence give the logits and the loss of rows alone."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ftune.core.errors import ModelError
from ftune.trainers.probe import probe_packing

SHAPE: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = SHAPE | {"intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.2}
GROUPED = WIDE | {"num_key_value_heads": 2}
EXACT: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=4),
    "gpt_neox": lambda: GPTNeoXConfig(**WIDE),
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2),
}
LEAKY: dict[str, Callable[[float], PretrainedConfig]] = {
    "opt": lambda std: OPTConfig(
        **SHAPE, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64, init_std=std, dropout=0.0
    ),
    "falcon": lambda std: FalconConfig(**SHAPE, alibi=True, initializer_range=std),
    "mamba": lambda std: MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, initializer_range=std),
}
"""Architectures that take no notice of positions that begin anew: what they carry on is not in the positions."""

ROWS = [[5, 9, 33, 2, 61, 17, 17, 4, 8], [40, 3, 9, 9, 21, 50, 12], [7, 7, 30]]
LABELS = [[-100, -100, 33, 2, 61, 17, 17, 4, 8], [-100, 3, 9, 9, -100, -100, 12], [-100, 7, 30]]


def model_of(config: PretrainedConfig, attention: str = "eager") -> PreTrainedModel:
    torch.manual_seed(0)
    config.pad_token_id = None
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return model.eval()


def run(model: PreTrainedModel, rows: list[list[int]], labels: list[list[int]]) -> Any:
    """One packed sequence, made as the trainer makes it from rows that were packed before."""
    ids, marks = list(chain.from_iterable(rows)), list(chain.from_iterable(labels))
    packed = {"input_ids": ids, "labels": marks, "seq_lengths": [len(row) for row in rows]}
    with torch.no_grad():
        return model(**DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)([packed]), use_cache=False)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", EXACT)
def test_packed_rows_have_the_logits_and_the_loss_of_rows_alone(name: str, attention: str) -> None:
    model = model_of(EXACT[name](), attention)
    alone = [run(model, [row], [marks]) for row, marks in zip(ROWS, LABELS, strict=True)]
    packed = run(model, ROWS, LABELS)
    torch.testing.assert_close(packed.logits[0], torch.cat([one.logits[0] for one in alone]), atol=1e-5, rtol=1e-4)
    trained = torch.tensor([sum(label != -100 for label in marks) for marks in LABELS])
    mean = (torch.stack([one.loss for one in alone]) * trained).sum() / trained.sum()
    torch.testing.assert_close(packed.loss, mean)
    assert probe_packing(model, ROWS) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_flex_attention_keeps_packed_rows_apart(name: str) -> None:
    """On a CPU it is compiled for one length only, so a row alone is made as long by tokens behind it."""
    model = model_of(EXACT[name](), "flex_attention")
    packed = run(model, ROWS, LABELS).logits[0].split([len(row) for row in ROWS])
    length = sum(map(len, ROWS))
    for row, logits in zip(ROWS, packed, strict=True):
        longer = [row + [1] * (length - len(row))]
        torch.testing.assert_close(logits, run(model, longer, longer).logits[0, : len(row)], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("std", [0.2, 0.02])
@pytest.mark.parametrize("name", LEAKY)
def test_architectures_whose_packed_rows_see_each_other_are_refused(name: str, std: float, dtype: torch.dtype) -> None:
    with pytest.raises(ModelError, match=r"packed rows see each other.*switch 'data.packing' off"):
        probe_packing(model_of(LEAKY[name](std)).to(dtype), ROWS)


@pytest.mark.parametrize("config", [LlamaConfig(**GROUPED), MixtralConfig(**GROUPED, num_local_experts=4)])
def test_rounding_in_16_bit_is_no_leak(config: PretrainedConfig) -> None:
    """In a mixture of experts it changes which expert is chosen."""
    rows = torch.randint(1, 64, (350,), generator=torch.Generator().manual_seed(1)).tolist()
    limit = 0.5 * float(run(model_of(config), [rows], [rows]).logits.abs().max())
    assert probe_packing(model_of(config, "sdpa").bfloat16(), [rows[:200], rows[200:]]) < limit


def test_a_leak_between_equal_rows_is_seen() -> None:
    with pytest.raises(ModelError, match="packed rows see each other"):
        probe_packing(model_of(LEAKY["opt"](0.2)), [[7, 7, 7, 7]])


def test_positions_that_go_on_are_refused_even_without_a_leak() -> None:
    model = model_of(EXACT["gpt2"]())
    honest = model.forward

    def positions_go_on(input_ids: torch.Tensor, position_ids: torch.Tensor, **others: Any) -> Any:
        documents = (position_ids[0] == 0).cumsum(0)
        sees = (documents[:, None] == documents[None]).tril()
        positions = torch.arange(input_ids.shape[1])[None]
        mask = torch.zeros(sees.shape).masked_fill(~sees, float("-inf"))[None, None]
        return honest(input_ids=input_ids, position_ids=positions, attention_mask=mask, use_cache=False)

    model.forward = positions_go_on
    with pytest.raises(ModelError, match="packed rows lose their positions"):
        probe_packing(model, ROWS)


def test_a_model_that_cannot_compute_packed_rows_is_refused() -> None:
    from transformers import MptConfig, MptForCausalLM

    model = MptForCausalLM(MptConfig(vocab_size=64, d_model=16, n_layers=1, n_heads=2, max_seq_len=8))
    with pytest.raises(ModelError, match=r"packed rows cannot be computed with this model .*switch 'data.packing' off"):
        probe_packing(model, [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
