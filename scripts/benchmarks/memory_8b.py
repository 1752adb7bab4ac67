"""Peak GPU memory of training an 8B model beside the arithmetic, and tokens per second: QLoRA, int8, LoRA and full.

    .venv/bin/python scripts/benchmarks/memory_8b.py --folder /tmp/8b                # qlora int8 lora (an 80 GB GPU)
    .venv/bin/python scripts/benchmarks/memory_8b.py --folder /tmp/8b full           # 141 GB
    .venv/bin/python scripts/benchmarks/memory_8b.py --folder /tmp/small --hidden 64 --layers 2     # a try on a CPU

The model has the shape of Llama-3.1-8B and random weights, written once to --folder as bf16 (16 GB); rows are random
words. Each setting is loaded, wrapped and trained as `ftune sft` does it, with activation checkpointing, in bf16.

The arithmetic, in bytes. Weights: NF4 4 bits and, with double quantisation, 8 bits for each 64 weights and 32 for each
256 of these; int8 1 byte; embeddings, head and norms, and all of an unquantised model, 2. Trained parameters: 16 each
(fp32 value, gradient and two moments), of which a paged optimizer's 8 lie outside of what PyTorch counts; in full fine-
tuning these are all parameters, and there are no other weights. Activations, for T tokens, hidden size H, key width K
and feed-forward width F: the input of each layer, T H each (16 bit; 32 bit in full fine-tuning, where the embeddings
are), and one layer that is computed again, 2 T (8 H + 4 K + 6 F): inputs and results of its products and norms, and the
gradients of the widest two.
"""

import argparse
import gc
import json
import statistics
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaConfig

    from ftune.recipes.runs.inputs import Inputs
    from ftune.recipes.sft import SftRecipe

UNTIMED = 4
"""The first steps, which warm up."""

SETTINGS: dict[str, dict[str, Any]] = {
    "qlora": {"model": {"quantization": {"type": "nf4"}}, "optim": {"optimizer": "paged_adamw"}},
    "int8": {"model": {"quantization": {"type": "int8"}}},
    "lora": {},
    "full": {"peft": {"type": "full"}},
}
"""Sections of each setting's recipe; LoRA of rank 16 on all linear layers where none is named."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What the memory should be, in GiB."""

    weights: float
    trained: float
    activations: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.weights + self.trained + self.activations


def arithmetic(name: str, config: "LlamaConfig", trained: int, rows: int, length: int) -> Arithmetic:
    """The docstring's formulas for `rows` rows of `length` tokens and `trained` trained parameters."""
    hidden, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    key = hidden * config.num_key_value_heads // config.num_attention_heads
    linear = layers * (2 * hidden * hidden + 2 * hidden * key + 3 * hidden * wide)
    other = 2 * config.vocab_size * hidden + (2 * layers + 1) * hidden
    a_linear = {"qlora": (4 + 8 / 64 + 32 / (64 * 256)) / 8, "int8": 1.0, "lora": 2.0, "full": 0.0}[name]
    weights = linear * a_linear + (0 if name == "full" else 2 * other)
    inputs = layers * rows * length * hidden * (4 if name == "full" else 2)
    one_layer = 2 * rows * length * (8 * hidden + 4 * key + 6 * wide)
    gib = 2**30
    return Arithmetic(weights / gib, (8 if name == "qlora" else 16) * trained / gib, (inputs + one_layer) / gib)


def make_model(folder: Path, given: argparse.Namespace) -> None:
    """Write the model, its tokenizer and the rows, unless they are there."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    words = [*special.values(), *(f"w{index}" for index in range(len(special), 128_256))]
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for row in torch.randint(8, len(words), (given.steps * given.rows, given.length - 1), generator=generator):
            file.write(json.dumps({"text": " ".join(words[index] for index in row.tolist())}) + "\n")
    if (folder / "model" / "config.json").is_file():
        return
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=given.hidden,
        intermediate_size=given.hidden * 7 // 2,
        num_hidden_layers=given.layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "model", max_shard_size="4GB")
    vocabulary = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}))
    vocabulary.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=vocabulary, **special).save_pretrained(folder / "model")


def recipe_of(name: str, folder: Path, given: argparse.Namespace) -> "SftRecipe":
    """The recipe of a setting."""
    from ftune.recipes.sft import SftRecipe

    own = SETTINGS[name]
    return SftRecipe.model_validate(
        {
            **own,
            "output_dir": str(folder / "runs" / name),
            "model": {"path": str(folder / "model"), **own.get("model", {})},
            "data": {"train": str(folder / "rows.jsonl"), "max_length": given.length},
            "batch": {"micro_batch_size": given.rows, "activation_checkpointing": True},
            "schedule": {"max_steps": given.steps},
            "checkpoint": {"every": "never"},
        }
    )


def measure(name: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train a setting for a few steps: loaded, wrapped and trained as `ftune sft` does it, but nothing is saved."""
    import torch
    from transformers import AutoConfig

    from ftune.core.say import Say
    from ftune.models.dtype import resolve_dtype
    from ftune.peft.base import Material, count_parameters
    from ftune.recipes.runs.inputs import load_inputs

    on_gpu = torch.cuda.is_available()
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    recipe = recipe_of(name, folder, given)
    inputs = load_inputs(recipe, Say())
    dtype = resolve_dtype(recipe.model.dtype, on_gpu=on_gpu)
    weights = "fp32" if recipe.peft.trains_base else dtype
    loaded = recipe.model.load(inputs.located, weights, "cuda" if on_gpu else "cpu")
    model = recipe.peft.wrap(loaded, Material(inputs.tokenizer, inputs.located))
    trained, total = count_parameters(model)
    loading = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    steps = train(recipe, model, inputs, dtype)
    expected = arithmetic(name, AutoConfig.from_pretrained(folder / "model"), trained, given.rows, given.length)
    return {
        "setting": name,
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "parameters": total,
        "trained": trained,
        "arithmetic_gib": {**asdict(expected), "total": expected.total},
        "measured_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if on_gpu else None,
        "loading_gib": loading,
        "tokens_per_s": statistics.median(step["tokens_per_s"] for step in steps[UNTIMED:] or steps),
        "losses": [round(step["loss"], 3) for step in steps],
    }


def train(recipe: "SftRecipe", model: Any, inputs: "Inputs", dtype: str) -> list[dict[str, Any]]:
    """The events of the steps of a training, whose history is written anew."""
    from ftune.core.say import Say
    from ftune.report.events import EventLog, read_events
    from ftune.trainers.feed import PreparedDataset
    from ftune.trainers.method import Method
    from ftune.trainers.sft import train_sft
    from ftune.trainers.training import Around

    run = Path(recipe.output_dir)
    run.mkdir(parents=True, exist_ok=True)
    (run / "events.jsonl").unlink(missing_ok=True)
    with EventLog(run / "events.jsonl") as events:
        around = Around(
            args={**recipe.training_args(), "bf16": dtype == "bf16"},
            events=events,
            facts={},
            say=Say(),
            method=Method(adapter=recipe.peft.library == "peft"),
        )
        train_sft(model, inputs.tokenizer, PreparedDataset(inputs.train), None, around, packed=False)
    return [event for event in read_events(run / "events.jsonl") if event["kind"] == "step"]


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    parts, numbers = found["arithmetic_gib"], ("weights", "trained", "activations", "total")
    cells = [found["setting"], f"{found['trained']:,}", *(f"{parts[part]:.1f}" for part in numbers)]
    cells += ["" if found["measured_gib"] is None else f"{found['measured_gib']:.1f}", f"{found['tokens_per_s']:,.0f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure the settings one after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=["qlora", "int8", "lora"], help=", ".join(SETTINGS))
    parser.add_argument("--folder", type=Path, required=True, help="where the model lies, or is made")
    parser.add_argument("--results", type=Path, help="a JSON line of each setting is appended to it")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=4, help="rows a step")
    parser.add_argument("--length", type=int, default=1024, help="tokens a row")
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    make_model(given.folder, given)
    lines = []
    for name in given.settings:
        try:
            found = measure(name, given.folder, given)
            lines.append(row(found))
        except Exception as error:  # one that does not fit must not cost the others
            traceback.print_exc()
            found = {"setting": name, "error": str(error)}
            lines.append(f"{name} failed: {error}")
        print(json.dumps(found), flush=True)
        if given.results:
            with given.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
    print(f"\nGiB, {given.rows} rows of {given.length:,} tokens a step, bf16, activation checkpointing")
    print("| setting | trained | weights | 16 B a trained parameter | activations | sum | measured | tokens/s |")
    print("|---|" + "---:|" * 7)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
