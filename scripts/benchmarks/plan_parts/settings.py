"""What is measured, the most telling first: models by their shape, and a recipe each."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Sections = dict[str, Any]
"""Sections of a recipe."""


def llama(hidden: int, layers: int, heads: int, key_heads: int, wide: int, vocabulary: int, *, tied: bool) -> Sections:
    """The `config.json` of a Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": hidden // heads,
        "intermediate_size": wide,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
        "dtype": "bfloat16",
    }


def qwen3(hidden: int, layers: int, heads: int, key_heads: int, wide: int, vocabulary: int) -> Sections:
    """The `config.json` of a Qwen3 with tied embeddings: heads of 128, with norms of queries and keys."""
    found = llama(hidden, layers, heads, key_heads, wide, vocabulary, tied=True)
    return {**found, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128}


def gpt2(hidden: int, layers: int, heads: int, vocabulary: int) -> Sections:
    """The `config.json` of a GPT-2: biases everywhere, LayerNorms, learned positions."""
    named = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": hidden, "n_layer": layers}
    named |= {"n_head": heads, "vocab_size": vocabulary, "n_positions": 1024, "tie_word_embeddings": True}
    dropouts = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    return {**named, **dropouts, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "dtype": "bfloat16"}


SHAPES = {
    "1B": llama(2048, 16, 32, 8, 8192, 128_256, tied=True),
    "8B": llama(4096, 32, 32, 8, 14_336, 128_256, tied=False),
    "0.6B": qwen3(1024, 28, 16, 8, 3072, 151_936),
    "355M": gpt2(1024, 24, 16, 50_257),
}
"""Llama-3.2-1B, Llama-3.1-8B, Qwen3-0.6B and GPT-2 medium."""

TINY = {
    "1B": llama(64, 2, 4, 2, 128, 512, tied=True),
    "8B": llama(64, 2, 4, 2, 128, 512, tied=False),
    "0.6B": qwen3(64, 2, 4, 2, 128, 512),
    "355M": gpt2(64, 2, 4, 512),
}
"""In the place of those, for a try."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A run."""

    name: str
    shape: str
    """Of SHAPES."""
    length: int
    """Tokens of each row; of each answer with its prompt for `rm`, of each prompt for `ppo`."""
    recipe: Sections = field(default_factory=dict)
    """What is not as in `base_of`."""
    kind: str = "sft"
    gpus: int = 1
    rows: int | None = None
    """Tokens of each row where rows are packed into `length`."""

    def tiny(self) -> "Setting":
        """The same for tiny models."""
        return replace(self, length=self.length // 16, rows=self.rows and self.rows // 16)

    @property
    def file(self) -> str:
        """Where its rows lie, beside the models."""
        return f"{self.kind}-{self.rows or self.length}.jsonl"

    def in_folder(self, folder: Path) -> Sections:
        """The whole recipe; models and rows lie in `folder`, and the run's own folder too."""
        recipe = {**base_of(self.kind), "output_dir": str(folder / "runs" / self.name)}
        for name, section in self.recipe.items():
            is_of_type = isinstance(section, dict) and "type" in section  # it replaces one of another type
            recipe[name] = section if is_of_type or name not in recipe else {**recipe[name], **section}
        recipe["model"] = {"path": str(folder / self.shape), **recipe.get("model", {})}
        data = {"max_length": self.length, "train": str(folder / self.file)}
        return {**recipe, "data": {**data, **recipe.get("data", {})}}


def base_of(kind: str) -> Sections:
    """The recipe of a few steps, of which nothing is saved; with padding, as before there was `speed`."""
    common: Sections = {"type": kind, "backend": {"type": "single"}, "checkpoint": {"every": "never"}}
    common |= {"speed": SLOW} if kind == "sft" else {}
    if kind != "ppo":
        return {**common, "peft": {"type": "lora", "rank": 16}, "schedule": {"max_steps": 3}}
    return {
        **common,
        "peft": {"type": "lora", "rank": 16},
        "rewards": [{"type": "length", "max": 8}],
        "rollout": {"batch_size": 32, "max_new_tokens": 128},
        "ppo": {"minibatch_size": 16, "micro_batch_size": 8, "epochs": 1},
        "schedule": {"iterations": 2},
        "guard": {"keep_best": False, "target_kl": None, "max_kl": None},
        "log": {"samples_every": "never"},
    }


SLOW = {"packed_attention": "off", "fused_loss": "off"}
ON = {"packed_attention": "auto", "fused_loss": "auto"}
FULL = {"type": "full"}
PROMPT = {"type": "prompt", "virtual_tokens": 20}
NF4 = {"quantization": {"type": "nf4"}}
AGAIN = {"activation_checkpointing": True}


def sft(name: str, shape: str, rows: int, length: int, *, again: bool = False, **more: Any) -> Setting:
    """Fine-tuning on micro-batches of `rows` rows; `again` computes activations again in the backward pass."""
    gpus = more.pop("gpus", 1)
    packed = more.pop("packed", None)
    recipe: Sections = {"batch": {"micro_batch_size": rows, "activation_checkpointing": again}, **more}
    if packed:
        recipe["data"] = {"packing": True}
    return Setting(name, shape, length, recipe, gpus=gpus, rows=packed)


def flat(name: str, shape: str, rows: int, length: int, **more: Any) -> Setting:
    """The same on flat batches with the fused loss, layers as they are."""
    speed = ON | {"folded_lora": "off", "compiled_layers": "off"}
    return sft(f"flat {name}", shape, rows, length, speed=speed, **more)


def fast(name: str, shape: str, rows: int, length: int, **more: Any) -> Setting:
    """With all that makes it fast, which so short a run would not compile for by itself."""
    return sft(f"fast {name}", shape, rows, length, speed=ON | {"compiled_layers": "on"}, **more)


def two(name: str, backend: Sections, rows: int = 4, length: int = 1024, shape: str = "1B", **more: Any) -> Setting:
    """Two processes, full fine-tuning unless said otherwise."""
    return sft(name, shape, rows, length, gpus=2, **{"peft": FULL, **more, "backend": {"num_processes": 2, **backend}})


def optimizer(name: str) -> Sections:
    """The section with an optimiser."""
    return {"optimizer": name}


ONE_GPU = (
    sft("1B full", "1B", 4, 1024, peft=FULL),
    sft("1B full again", "1B", 4, 2048, again=True, peft=FULL),
    sft("1B lora", "1B", 4, 2048),
    sft("1B lora again", "1B", 8, 2048, again=True),
    sft("1B lora short", "1B", 8, 512),
    sft("1B qlora", "1B", 4, 1024, model=NF4),
    sft("1B prompt", "1B", 4, 1024, peft=PROMPT),
    sft("1B full adafactor", "1B", 4, 1024, peft=FULL, optim=optimizer("adafactor")),
    sft("8B lora again", "8B", 4, 1024, again=True),
    sft("8B qlora again", "8B", 4, 1024, again=True, model=NF4),
    sft("8B qlora", "8B", 1, 2048, model=NF4),
    sft("8B lora", "8B", 2, 512),
    Setting("1B ppo shared", "1B", 128, {}, "ppo"),
    Setting("1B ppo separate", "1B", 128, {"peft": FULL, "memory": "separate"}, "ppo"),
    sft("1B full adamw_8bit", "1B", 4, 1024, peft=FULL, optim=optimizer("adamw_8bit")),
    sft("1B lora eager", "1B", 2, 1024, model={"attention": "eager"}),
    sft("1B lora sdpa", "1B", 2, 1024, model={"attention": "sdpa"}),
    sft("1B lora packed", "1B", 2, 2048, packed=512),
    Setting("1B rm lora", "1B", 512, {"batch": {"micro_batch_size": 4}}, "rm"),
    sft("1B lora one row", "1B", 1, 2048),
    sft("1B qlora again", "1B", 8, 2048, again=True, model=NF4),
    sft("1B lora rank 128", "1B", 4, 1024, again=True, peft={"type": "lora", "rank": 128}),
    sft("1B prompt again", "1B", 8, 1024, again=True, peft=PROMPT),
    sft("8B lora again long", "8B", 1, 2048, again=True),
    sft("8B prompt again", "8B", 2, 1024, again=True, peft=PROMPT),
    sft("8B qlora 8bit again", "8B", 1, 512, again=True, model=NF4, optim=optimizer("adamw_8bit")),
    Setting("1B ppo value adapter", "1B", 128, {"value": {"type": "adapter"}}, "ppo"),
    Setting(
        "1B ppo separate again",
        "1B",
        128,
        {"peft": FULL, "memory": "separate", "value": {"type": "copy"}, "ppo": {"activation_checkpointing": True}},
        "ppo",
    ),
    sft("1B full short", "1B", 16, 512, peft=FULL),
    sft("1B full adafactor again", "1B", 1, 2048, again=True, peft=FULL, optim=optimizer("adafactor")),
    sft("8B full adafactor again", "8B", 1, 512, again=True, peft=FULL, optim=optimizer("adafactor")),
    sft("8B full again", "8B", 1, 512, again=True, peft=FULL),
)

ZERO2, ZERO3, FSDP = {"type": "zero", "stage": 2}, {"type": "zero", "stage": 3}, {"type": "fsdp"}
ON_CPU = {"optimizer": "cpu"}

TWO_GPUS = (
    two("ddp full", {"type": "ddp"}),
    two("zero2 full", ZERO2),
    two("zero3 full", ZERO3),
    two("fsdp full", FSDP),
    two("ddp lora", {"type": "ddp"}, peft={"type": "lora", "rank": 16}),
    two("fsdp full again", FSDP, rows=8, again=True),
    two("fsdp offload", {**FSDP, "offload": "cpu"}),
    two("zero3 full again", ZERO3, rows=8, again=True),
    two("zero2 offload", {**ZERO2, "offload": ON_CPU}),
    two("zero3 offload", {**ZERO3, "offload": {**ON_CPU, "parameters": "cpu"}}),
    two("fsdp 8B lora again", FSDP, shape="8B", again=True, peft={"type": "lora", "rank": 16}),
    two("zero1 full", {"type": "zero", "stage": 1}),
    two("zero3 8B full again", ZERO3, rows=1, shape="8B", again=True),
)

OTHERS = (
    sft("0.6B lora", "0.6B", 4, 1024),
    sft("355M full", "355M", 6, 768, peft=FULL),
    Setting("8B ppo shared again", "8B", 128, {"ppo": {"activation_checkpointing": True}}, "ppo"),
    sft("1B dora", "1B", 2, 1024, peft={"type": "lora", "dora": True}),
    sft("1B vera", "1B", 2, 1024, peft={"type": "vera"}),
    sft("1B loha", "1B", 2, 512, peft={"type": "loha"}),
    sft("1B ia3", "1B", 3, 640, peft={"type": "ia3"}),
    sft("1B prefix", "1B", 2, 1024, peft={"type": "prefix"}),
    sft("1B adapter", "1B", 2, 1024, peft={"type": "adapter"}),
    sft("1B boft", "1B", 1, 512, peft={"type": "boft"}),
    sft("0.6B full again", "0.6B", 5, 896, again=True, peft=FULL),
    sft("1B lora on two", "1B", 3, 896, peft={"type": "lora", "rank": 64, "target_modules": ["q_proj", "v_proj"]}),
    sft("8B qlora paged again", "8B", 3, 640, again=True, model=NF4, optim=optimizer("paged_adamw_8bit")),
    Setting("1B rm full again", "1B", 384, {"peft": FULL, "batch": {"micro_batch_size": 3, **AGAIN}}, "rm"),
    Setting("1B ppo longer", "1B", 64, {"rollout": {"batch_size": 64, "max_new_tokens": 256}}, "ppo"),
    sft("355M lora", "355M", 8, 512),
)
"""Which no formula was fitted to: other shapes and other methods."""

FLAT = (
    fast("1B lora packed", "1B", 8, 2048, packed=512),
    flat("1B lora packed", "1B", 8, 2048, packed=512),
    fast("1B lora packed again", "1B", 8, 2048, packed=512, again=True),
    fast("1B full", "1B", 4, 1024, peft=FULL),
    flat("1B full again", "1B", 8, 2048, again=True, peft=FULL),
    fast("8B lora again", "8B", 4, 2048, again=True),
    fast("8B qlora packed again", "8B", 4, 2048, packed=512, again=True, model=NF4),
    fast("8B lora", "8B", 3, 1024),
    flat("8B lora", "8B", 3, 1024),
    fast("1B qlora", "1B", 4, 1024, model=NF4),
    fast("0.6B lora packed", "0.6B", 4, 2048, packed=512),
    flat("355M full", "355M", 6, 768, peft=FULL),
    flat("1B lora", "1B", 6, 1024),
)
"""Rows end to end, with the loss of trained tokens alone."""

SETTINGS = ONE_GPU + TWO_GPUS + OTHERS + FLAT
