"""What is measured: models by shape, rows by length, settings, and the ways to train."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Size = dict[str, Any]

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA = 16, 32

MODELS: dict[str, Size] = {
    "1b": {  # Llama-3.2-1B
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "8b": {  # Llama-3.1-8B
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 14_336,
        "vocab_size": 128_256,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 512,
        "tie_word_embeddings": True,
    },
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A kind of training run."""

    name: str
    model: str
    """A key of `MODELS`."""
    full: bool = False
    """All parameters train, instead of LoRA on all linear layers."""
    checkpointing: bool = False
    quantized: bool = False
    """Frozen weights in NF4."""
    passes: int = 1
    """Packed micro-batches of a step; more than one where memory counts."""
    selective: bool = False
    """A part of a layer's activations is kept, which ftune alone is measured with."""
    pairs: bool = False
    """A reward model trains, on pairs of answers."""
    offload: bool = False
    """Inputs of checkpointed layers are in the CPU's memory; likewise."""

    @property
    def ours(self) -> bool:
        """Whether ftune alone is measured."""
        return self.selective or self.offload


SETTINGS = [
    Setting("1B LoRA", "1b"),
    Setting("1B LoRA, checkpointing", "1b", checkpointing=True),
    Setting("1B LoRA, checkpointing, offload", "1b", checkpointing=True, offload=True),
    Setting("1B LoRA, checkpointing, offload, two passes", "1b", checkpointing=True, offload=True, passes=2),
    Setting("1B full", "1b", full=True),
    Setting("1B full, checkpointing", "1b", full=True, checkpointing=True),
    Setting("1B full, selective checkpointing", "1b", full=True, selective=True),
    Setting("8B LoRA, checkpointing", "8b", checkpointing=True),
    Setting("8B QLoRA, checkpointing", "8b", checkpointing=True, quantized=True, passes=2),
]
BF16 = "ftune, packed, bf16 weights"
UNSLOTH = "Unsloth at its best"
FP8 = {"ftune, packed, fp8": "tensorwise", "ftune, packed, fp8 rowwise": "rowwise"}
"""Ways whose products are in FP8, and the value of `speed.fp8`; with `, bf16 weights` behind, weights are bf16 too."""
WHOLE = [BF16, *FP8, *(f"{way}, bf16 weights" for way in FP8)]
"""Ways for settings in which all parameters train. FP8 has other losses, and is measured where it is asked for."""
WAYS = ["TRL as it ships", "TRL at its best", "hand-tuned loop", "ftune, packed", "ftune", BF16]
"""Who trains. `ftune` has the shipped defaults, which train fp32 weights where all train; TRL at its best and the loop
tuned by hand have bf16 there, as the last way has; TRL as it ships computes activations again in every setting.
Unsloth, which has bf16 there too, is none of them: it needs other versions of packages, see `Job.packages`."""


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement, done in a process of its own."""

    way: str
    setting: Setting
    recipe: str
    """The recipe that says model, rows and what trains; what is not ftune reads them from it."""
    steps: int
    untimed: int
    """The first steps, which warm up."""
    longest: int
    """Tokens of the longest row."""
    rows: int
    """Of a packed step, each `longest` tokens; unpacked micro-batches have as many rows, four of them a step."""
    packages: str = ""
    """A folder of packages that are found before all others."""
    overrides: list[str] = field(default_factory=list)
    """What `ftune sft` is told besides its recipe; where there are any, the whole curve of the run is its result."""

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Job":
        """Of `plain`."""
        return cls(**{**plain, "setting": Setting(**plain["setting"])})


def folder_of(root: Path, model: str) -> Path:
    """Where a model and its rows lie."""
    return root / model
