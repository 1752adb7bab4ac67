"""Numbers that people know, as the arithmetic gives them: for `ftune plan --table`, and as tests."""

from collections.abc import Iterator
from dataclasses import dataclass

from ftune.plan.adapter import Adapter
from ftune.plan.estimate import estimate
from ftune.plan.families import shape_of_config
from ftune.plan.job import Job, Spread
from ftune.plan.shape import ModelShape
from ftune.plan.states import states
from ftune.plan.weights import stored_bytes

GB = 1e9
ZERO_PARAMETERS = 7_500_000_000


@dataclass(frozen=True, slots=True)
class Published:
    """A published number beside ours."""

    what: str
    source: str
    said_gb: float | None
    """Gigabytes (1e9 bytes); None where it says no more than that it does not fit, or fits."""
    ours_gb: float
    card_gb: float | None = None
    """The card that it is to fit into, or not."""
    note: str = ""
    """Why ours differs."""

    @property
    def fits(self) -> bool | None:
        """Whether ours fits into the card."""
        return None if self.card_gb is None else self.ours_gb <= self.card_gb


def published() -> list[Published]:
    """All of them."""
    return [*_zero(), *_gpt3(), *_seven_billion(), *_bloomz(), _guanaco()]


def table() -> str:
    """All of them as text."""
    lines = [f"{'':67} {'said':>10} {'ours':>10}"]
    for row in published():
        said = "" if row.said_gb is None else f"{row.said_gb:,.1f} GB"
        verdict = "" if row.fits is None else f"  {'fits' if row.fits else 'does not fit'} into {row.card_gb:.0f} GB"
        lines.append(f"{row.what:67} {said:>10} {row.ours_gb:>7,.1f} GB{verdict}  ({row.source})")
        lines += [f"    {row.note}"] if row.note else []
    return "\n".join(lines)


def _zero() -> Iterator[Published]:
    """ZeRO's figure 1: 7.5 billion parameters on 64 GPUs, mixed precision and Adam."""
    source = "arXiv:1910.02054, figure 1"
    cases = [
        ("7.5B, 64 GPUs, each with all of it: 16 bytes a parameter", 120.0, Spread(type="ddp", processes=64)),
        ("the same, ZeRO-1", 31.4, Spread(type="zero", stage=1, processes=64)),
        ("the same, ZeRO-2", 16.6, Spread(type="zero", stage=2, processes=64)),
        ("the same, ZeRO-3", 1.9, Spread(type="zero", stage=3, processes=64)),
    ]
    for what, said, spread in cases:
        kept = states(Job(shape=LLAMA_7B, adapter=Adapter(base=ZERO_PARAMETERS), spread=spread))
        yield Published(what, source, said, (kept.weights + kept.masters + kept.gradients + kept.moments) / GB)


def _gpt3() -> Iterator[Published]:
    """LoRA's saving on GPT-3."""
    source = "arXiv:2106.09685, section 4.2"
    yield Published(
        "GPT-3 175B, all weights train",
        source,
        1200.0,
        16 * GPT3.parameters / GB,
        note="the paper's 1.2 TB are 7 bytes a parameter, and it does not say of what (weights and moments in 16 bit "
        "would be 6); ours are the 16 bytes of ZeRO's paper",
    )
    trained = GPT3.layers * 2 * 4 * 2 * GPT3.hidden  # rank 4 on queries and values
    yield Published(
        "GPT-3 175B, LoRA of rank 4 on queries and values",
        source,
        350.0,
        (stored_bytes(GPT3, "fp16", "none", double_quant=True) + 16 * trained) / GB,
    )


def _seven_billion() -> Iterator[Published]:
    """What a 7B model needs on one card of 80 GB with one row of 2,048 tokens at a time."""
    common = {"shape": LLAMA_7B, "micro_batch_size": 1, "tokens": 2048}
    ways = [
        ("all weights", Job(**common, adapter=Adapter(base=LLAMA_7B.parameters)), 80.0),  # type: ignore[arg-type]
        ("LoRA", Job(**common, adapter=_lora(LLAMA_7B, 16)), 80.0),  # type: ignore[arg-type]
        (
            "LoRA, ZeRO-3 offloaded to the CPU",
            Job(
                **common,  # type: ignore[arg-type]
                adapter=_lora(LLAMA_7B, 16),
                spread=Spread(type="zero", stage=3, optimizer="cpu", parameters="cpu"),
                checkpointing=True,
            ),
            80.0,
        ),
        ("QLoRA, on a card of 24 GB", Job(**common, adapter=_lora(LLAMA_7B, 16), quantization="nf4"), 24.0),  # type: ignore[arg-type]
    ]
    for what, job, card in ways:
        yield Published(f"Llama 7B, one row: {what}", "common knowledge", None, estimate(job).peak / GB, card)


def _bloomz() -> Iterator[Published]:
    """PEFT's table on an A100 of 80 GB: bloomz-7b1 in fp32, LoRA of rank 8 beside queries, keys and values."""
    source = "README of PEFT"
    rank = Adapter(
        parameters=BLOOMZ.layers * 8 * (BLOOMZ.hidden + 3 * BLOOMZ.hidden),
        low_rank=(("self_attention.query_key_value", 8),),
    )
    common = {"shape": BLOOMZ, "dtype": "fp32", "micro_batch_size": 8, "tokens": 64, "loss": "whole"}
    whole = Job(**{**common, "micro_batch_size": 1}, adapter=Adapter(base=BLOOMZ.parameters))  # type: ignore[arg-type]
    yield Published("bloomz-7b1, all weights: out of memory", source, None, estimate(whole).peak / GB, 80.0)
    lora = Job(**common, adapter=rank)  # type: ignore[arg-type]
    yield Published("bloomz-7b1, LoRA", source, 32.0, estimate(lora).peak / GB, 80.0)
    away = Spread(type="zero", stage=3, optimizer="cpu", parameters="cpu")
    offloaded = Job(**{**common, "dtype": "bf16"}, adapter=rank, spread=away)  # type: ignore[arg-type]
    yield Published(
        "bloomz-7b1, LoRA with DeepSpeed's offload to the CPU",
        source,
        18.1,
        estimate(offloaded).peak / GB,
        80.0,
        note="measured with the DeepSpeed of 2023 and settings that are not told; ours keeps a billion weights and "
        "the head on the device",
    )


def _guanaco() -> Published:
    """QLoRA's claim: a 65B model on one GPU of 48 GB; rank 64 on all linear layers, rows of 512 tokens."""
    job = Job(
        shape=LLAMA_65B,
        adapter=_lora(LLAMA_65B, 64),
        quantization="nf4",
        optimizer="paged_adamw",
        micro_batch_size=1,
        tokens=512,
        checkpointing=True,
    )
    return Published(
        "LLaMA 65B, QLoRA of rank 64", "arXiv:2305.14314", 48.0, estimate(job).peak / GB, 48.0, "an upper bound"
    )


def _lora(shape: ModelShape, rank: int) -> Adapter:
    """LoRA on all linear layers of decoder layers."""
    numbers = sum(rank * (linear.inputs + linear.outputs) for linear in shape.layer_linears)
    return Adapter(
        parameters=shape.layers * numbers, low_rank=tuple((linear.name, rank) for linear in shape.layer_linears)
    )


def _llama(hidden: int, layers: int, heads: int, ffn: int) -> ModelShape:
    return shape_of_config(
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": ffn,
            "vocab_size": 32_000,
            "tie_word_embeddings": False,
        }
    )


LLAMA_7B = _llama(4096, 32, 32, 11_008)
LLAMA_65B = _llama(8192, 80, 64, 22_016)
GPT3 = shape_of_config(
    {
        "model_type": "gpt2",
        "n_embd": 12_288,
        "n_layer": 96,
        "n_head": 96,
        "n_positions": 2048,
        "vocab_size": 50_257,
    }
)
BLOOMZ = shape_of_config(
    {
        "model_type": "bloom",
        "hidden_size": 4096,
        "n_layer": 30,
        "n_head": 32,
        "vocab_size": 250_880,
    }
)
