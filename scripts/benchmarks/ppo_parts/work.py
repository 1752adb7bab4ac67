"""The work that every part does, and how it is measured and told."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

STOP_ID, PAD_ID = 2, 0
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured."""

    model: dict[str, int]
    prompts: int
    prompt_tokens: int
    new_tokens: int
    rounds: int


LARGE = Work(
    {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "vocab_size": 128_256,
    },
    prompts=128,
    prompt_tokens=128,
    new_tokens=256,
    rounds=4,
)
TINY = Work(
    {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "vocab_size": 512,
    },
    prompts=4,
    prompt_tokens=8,
    new_tokens=8,
    rounds=2,
)


def device_name() -> str:
    """`cuda` where there is a GPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronised() -> float:
    """The clock, once the device has done all its work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def gib(which: str) -> float | None:
    """`memory_allocated` or `max_memory_allocated` of the GPU."""
    import torch

    return round(getattr(torch.cuda, which)() / 2**30, 2) if torch.cuda.is_available() else None


def llama(work: Work) -> Any:
    """The model's configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(
        **work.model,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        bos_token_id=1,
        eos_token_id=STOP_ID,
        pad_token_id=PAD_ID,
    )


def number_format() -> "torch.dtype":
    """bf16 on a GPU."""
    import torch

    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def base_model(work: Work, kind: str = "AutoModelForCausalLM", seed: int = 0, **changes: int) -> Any:
    """A model with random weights, made on the device."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = llama(work)
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.device(device_name()):
        return getattr(transformers, kind).from_config(config, dtype=number_format())


def lora_settings(task: str = "CAUSAL_LM") -> Any:
    """LoRA of rank 16 on the seven linear maps."""
    from peft import LoraConfig

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=names, task_type=task)


def tuned_model(work: Work) -> "PeftModel":
    """The policy: adapters in fp32, as in training, and none of them without effect."""
    from peft import get_peft_model

    model = get_peft_model(base_model(work), lora_settings())
    stir(model, 0.02)
    return model.eval()


def stir(model: "PeftModel", width: float) -> None:
    """Move the adapters' second factors, as an optimiser's step would."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter), alpha=width)


def random_prompts(work: Work, *, ragged: bool = False) -> list[list[int]]:
    """Prompts of random tokens: all of one length, or of all lengths up to it."""
    import random

    rng = random.Random(3)
    lengths = [rng.randint(1, work.prompt_tokens) if ragged else work.prompt_tokens for _ in range(work.prompts)]
    return [[rng.randrange(4, work.model["vocab_size"]) for _ in range(length)] for length in lengths]


def word_tokenizer(work: Work) -> Any:
    """A tokenizer with one word an id."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = [*special.values(), *(f"w{index}" for index in range(len(special), work.model["vocab_size"]))]
    inner = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=special["unk_token"]))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **special)


def attempts(what: str, measure: Callable[[], Result]) -> list[Result]:
    """The result, or what went wrong."""
    import gc

    import torch

    try:
        result = measure()
    except Exception as error:  # a part that fails must not take the others along
        traceback.print_exc()
        result = {
            "part": "failed",
            "case": what,
            "error": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}",
        }
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [told(result)]


def told(result: Result) -> Result:
    """Print the result at once: what is measured is kept even if the rest is cut off."""
    print(json.dumps(result), flush=True)
    return result
