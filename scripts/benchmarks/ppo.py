"""What PPO costs on a 1B Llama: tokens per second of each rollout engine, an iteration's time and memory, and TRL's.

    python scripts/benchmarks/ppo.py --only rollout --check     # engines, and proof that they sample from the policy
    python scripts/benchmarks/ppo.py --only trl --trl-path DIR  # TRL 1.12's experimental PPO, installed in DIR
    python scripts/benchmarks/ppo.py --tiny                     # everything in a try-out size on a CPU

The model has the shape of Llama-3.2-1B and random weights, made on the device; LoRA of rank 16 on its seven linear
maps, with factors that are not zero. 128 prompts of 128 random tokens are completed by 256 tokens each. TRL 1.12 is the
last that has PPO (`pip install --no-deps --target DIR trl==1.12.0`); it runs in a process of its own. Rates are of the
fastest round after the first, which compiles. Every result is a JSON line on stdout; a failure is one too, and the rest
goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from ftune.ppo.rollout.base import Engine, Policy, Rollout

PARTS = ("rollout", "trl")
ENGINES: dict[str, dict[str, object]] = {
    "generate": {"type": "generate", "micro_batch_size": 128},
    "graph shared": {"type": "graph", "weights": "shared"},
    "graph merged": {"type": "graph", "weights": "merged"},
}
STOP_ID, PAD_ID = 2, 0
COMPARED = 32
"""Completions whose log-probabilities are compared with the model's own."""

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


def lora_settings() -> Any:
    """LoRA of rank 16 on the seven linear maps."""
    from peft import LoraConfig

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=names, task_type="CAUSAL_LM")


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


def rollout_part(work: Work, given: argparse.Namespace) -> list[Result]:
    """Every engine on the same prompts."""
    from ftune.ppo.rollout.base import Policy

    model = tuned_model(work)
    autocast = number_format() if device_name() == "cuda" else None
    policy = Policy(model, PAD_ID, (STOP_ID,), autocast)
    results = [told({"part": "rollout", "case": "loaded", "gib": gib("memory_allocated")})]
    for name in given.engines or ENGINES:
        if given.check:
            results += attempts(f"check {name}", partial(checked, name, policy, work))
        results += attempts(f"rollout {name}", partial(measured, name, policy, work))
        if given.profile:
            attempts(f"profile {name}", partial(profiled, name, policy, work))
    return results


def engine_of(name: str, policy: "Policy") -> "Engine":
    """An open engine."""
    from ftune.core.variants import variants_of
    from ftune.ppo.rollout.base import RolloutEngine

    settings = ENGINES[name]
    engine: Engine = variants_of(RolloutEngine)[str(settings["type"])].model_validate(settings).open(policy)
    return engine


def measured(name: str, policy: "Policy", work: Work) -> Result:
    """Rounds as in training: the policy has changed and the engine has rested before each."""
    import torch

    from ftune.ppo.rollout.base import Sampling

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = synchronised()
    engine, prompts = engine_of(name, policy), random_prompts(work)
    opened = synchronised() - started
    seconds, rates = [], []
    for seed in range(work.rounds):
        engine.policy_changed()
        started = synchronised()
        made = engine.generate(prompts, Sampling(work.new_tokens), seed)
        seconds.append(synchronised() - started)
        rates.append(sum(len(rollout.token_ids) for rollout in made) / seconds[-1])
        engine.rest()
    return {
        "part": "rollout",
        "case": name,
        "tokens_per_s": round(max(rates[1:])),
        "seconds": [round(each, 3) for each in seconds],
        "open_s": round(opened, 2),
        "peak_gib": gib("max_memory_allocated"),
        "rest_gib": gib("memory_allocated"),
    }


def checked(name: str, policy: "Policy", work: Work) -> Result:
    """Whether the engine draws from the policy: its log-probabilities against the model's, on what it drew itself.

    Prompts are of all lengths. `gap` is the mean distance of a token's log-probability, `gap_without_adapters` the same
    to the base: the first must be many times smaller. `gap_after_change` follows a change of the adapters without a
    rest, `gap_after_rest` one with a rest. `stops` says that completions end at the first of many stop tokens.
    """
    from dataclasses import replace

    from ftune.ppo.rollout.base import Sampling

    prompts, sampling = random_prompts(work, ragged=True), Sampling(min(work.new_tokens, 48))
    engine = engine_of(name, policy)
    result: Result = {"part": "check", "case": name, **proof(name, policy)}
    made = engine.generate(prompts, sampling, 5)
    result["gap"], result["largest_gap"] = gap(policy, made)
    with policy.model.disable_adapter():
        result["gap_without_adapters"] = gap(policy, made)[0]
    result["same_seed_same_tokens"] = [each.token_ids for each in engine.generate(prompts, sampling, 5)] == [
        each.token_ids for each in made
    ]
    for key, rests in (("gap_after_change", False), ("gap_after_rest", True)):
        stir(policy.model, 0.01)
        if rests:
            engine.rest()
        engine.policy_changed()
        result[key] = gap(policy, engine.generate(prompts, sampling, 6))[0]
    engine.rest()
    many = replace(policy, stop_ids=tuple(range(work.model["vocab_size"] // 16)))
    made = engine_of(name, many).generate(prompts, sampling, 7)
    result["stops"] = all(
        rollout.stopped == (rollout.token_ids[-1] in many.stop_ids)
        and not set(rollout.token_ids[:-1]) & set(many.stop_ids)
        for rollout in made
    )
    result["mean_length_with_stops"] = round(sum(len(each.token_ids) for each in made) / len(made), 1)
    return result


def proof(name: str, policy: "Policy") -> Result:
    """Relative difference of the logits of graph engines to the model's own."""
    settings = ENGINES[name]
    if settings["type"] != "graph":
        return {}
    from ftune.ppo.rollout.graphs.attention import flash_serves
    from ftune.ppo.rollout.graphs.layout import read_layout
    from ftune.ppo.rollout.graphs.proof import difference

    layout = read_layout(policy)
    return {
        "logits_difference": difference(policy, layout, settings["weights"]),  # type: ignore[arg-type]
        "flash": flash_serves(layout.device, layout.dtype, layout.shape.head_dim),
    }


def gap(policy: "Policy", made: Sequence["Rollout"]) -> tuple[float, float]:
    """Mean and largest distance of an engine's log-probabilities to those of the model's own forward."""
    import torch

    device = policy.model.device
    distances = []
    for rollout in made[:COMPARED]:
        ids = torch.tensor([rollout.prompt_ids + rollout.token_ids], device=device)
        with torch.no_grad(), torch.autocast(device.type, policy.autocast, enabled=policy.autocast is not None):
            logits = policy.model(input_ids=ids, use_cache=False).logits
        logprobs = logits[0, len(rollout.prompt_ids) - 1 : -1].float().log_softmax(-1)
        chosen = logprobs.gather(1, ids[0, len(rollout.prompt_ids) :, None])[:, 0]
        distances.append((chosen - torch.tensor(rollout.logprobs, device=device)).abs())
    every = torch.cat(distances)
    return round(float(every.mean()), 5), round(float(every.max()), 5)


def profiled(name: str, policy: "Policy", work: Work) -> Result:
    """Where the device's time goes: a table on stderr."""
    from torch.profiler import ProfilerActivity, profile

    from ftune.ppo.rollout.base import Sampling

    engine, prompts = engine_of(name, policy), random_prompts(work)
    engine.generate(prompts, Sampling(work.new_tokens), 0)
    activity = ProfilerActivity.CUDA if device_name() == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        engine.generate(prompts, Sampling(work.new_tokens), 1)
    order = f"self_{device_name()}_time_total"
    print(seen.key_averages().table(sort_by=order, row_limit=16, max_name_column_width=70), file=sys.stderr)
    engine.rest()
    return {"part": "profile", "case": name}


def trl_part(work: Work, given: argparse.Namespace) -> list[Result]:
    """TRL's PPO in a process that finds the version in `--trl-path` first."""
    if given.inside:
        return attempts("TRL 1.12", partial(trl_iteration, work))
    if not given.trl_path:
        return [told({"part": "trl", "case": "TRL 1.12", "error": "not run: give --trl-path"})]
    command = [sys.executable, __file__, "--only", "trl", "--inside", *(["--tiny"] if given.tiny else [])]
    paths = [str(given.trl_path), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"part"')]
    lines = lines or [{"part": "trl", "case": "TRL 1.12", "error": f"ended with {done.returncode}"}]
    return [told(line) for line in lines]


def trl_iteration(work: Work, updates: int = 3) -> Result:
    """Iterations of its trainer as it ships: LoRA policy, adapter off as reference, full value and reward models."""
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    sampled: list[float] = []
    ended: list[float] = []
    batch_generation = ppo_trainer.batch_generation

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = synchronised()
        made = batch_generation(*args, **kwargs)
        sampled.append(synchronised() - started)
        return made

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ended.append(synchronised())

    ppo_trainer.batch_generation = timed
    rows = [prompt for seed in range(updates) for prompt in random_prompts(work)]
    data = Dataset.from_dict({"input_ids": rows})
    micro = min(8, work.prompts)
    with tempfile.TemporaryDirectory() as folder:
        settings = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=work.prompts // micro,
            num_mini_batches=1,
            num_ppo_epochs=1,
            total_episodes=work.prompts * updates,
            response_length=work.new_tokens,
            local_rollout_forward_batch_size=min(64, work.prompts),
            num_sample_generations=0,
            temperature=1.0,
            report_to=[],
            save_strategy="no",
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
            gradient_checkpointing=False,
        )
        scoring = "AutoModelForSequenceClassification"
        trainer = PPOTrainer(
            args=settings,
            processing_class=word_tokenizer(work),
            model=base_model(work),
            ref_model=None,
            reward_model=base_model(work, scoring, 1, num_labels=1),
            value_model=base_model(work, scoring, 2, num_labels=1),
            train_dataset=data,
            eval_dataset=data.select(range(work.prompts)),
            peft_config=lora_settings(),
            callbacks=[Clock()],
        )
        loaded, started = gib("memory_allocated"), synchronised()
        trainer.train()
    ends = [started, *ended]
    iterations = [after - before for before, after in pairwise(ends)]
    return {
        "part": "trl",
        "case": "TRL 1.12",
        "tokens_per_s": round(work.prompts * work.new_tokens / min(sampled)),
        "iteration_s": [round(each, 3) for each in iterations],
        "rollout_s": [round(each, 3) for each in sampled[: len(iterations)]],
        "loaded_gib": loaded,
        "peak_gib": gib("max_memory_allocated"),
    }


def word_tokenizer(work: Work) -> Any:
    """A tokenizer with one word an id, which TRL's trainer asks for."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(work.model["vocab_size"])}
    special = {"pad_token": f"w{PAD_ID}", "bos_token": "w1", "eos_token": f"w{STOP_ID}"}
    inner = Tokenizer(WordLevel(words, unk_token="w3"))  # noqa: S106  no secret
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **special)


def attempts(what: str, measure: Callable[[], Result]) -> list[Result]:
    """The result, or what went wrong."""
    import gc

    import torch

    try:
        result = measure()
    except Exception as error:  # a part that fails must not take the others along
        traceback.print_exc()
        result = {"part": "failed", "case": what, "error": f"{type(error).__name__}: {str(error)[:300]}"}
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [told(result)]


def told(result: Result) -> Result:
    """Print the result at once: what is measured is kept even if the rest is cut off."""
    print(json.dumps(result), flush=True)
    return result


def table(results: Sequence[Result]) -> str:
    """Rates, times and memory for people."""
    columns = (
        "case",
        "tokens_per_s",
        "iteration_s",
        "rollout_s",
        "seconds",
        "loaded_gib",
        "peak_gib",
        "rest_gib",
        "error",
    )
    lines = ["  ".join(f"{name:>14}" for name in columns)]
    for result in results:
        if result["part"] not in ("check", "profile"):
            cells = [result.get(name) for name in columns]
            shown = [min(cell) if isinstance(cell, list) and cell else cell for cell in cells]
            lines.append("  ".join(f"{'' if cell is None else cell!s:>14}" for cell in shown))
    return "\n".join(lines)


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--engines", nargs="*", choices=list(ENGINES))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--trl-path", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    work = TINY if given.tiny else LARGE
    measures = {"rollout": rollout_part, "trl": trl_part}
    results = [result for name in PARTS if given.only in (None, name) for result in measures[name](work, given)]
    if not given.inside:
        print(table(results))


if __name__ == "__main__":
    main()
