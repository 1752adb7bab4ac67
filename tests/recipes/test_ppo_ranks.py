"""`ftune ppo` on two processes: DDP and FSDP2 make the same run, and an error of one process ends both."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ftune.backends.ranks import Ranks
from ftune.core.errors import LaunchError
from ftune.core.say import Say
from ftune.core.world import World
from ftune.launch.place import free_port
from ftune.recipes.ppo import PpoRecipe
from ftune.recipes.runs.ppo_processes import open_processes
from ftune.report.events import read_events
from tests.conftest import chat_rows, write_rows
from tests.pair import run_pair
from tests.recipes.ppo_ranks import CASES
from tests.recipes.ppo_recipes import BASE

FAILING = """
import os

calls = 0


def score(completions, **columns):
    global calls
    calls += 1
    if calls % 4 == 3 and os.environ["RANK"] == "1":  # the second iteration, after a trial and the first
        raise KeyError("no such word")
    return [float(len(str(one))) for one in completions]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Where both processes have left their runs."""
    place = tmp_path_factory.mktemp("ranks")
    write_rows(place / "rows.jsonl", chat_rows(24))
    (place / "mine.py").write_text(FAILING)
    plain = {name: section for name, section in BASE.items() if section is not None}
    plain |= {
        "model": {"path": str(tiny_model)},
        "peft": {"type": "lora", "rank": 4},
        "data": {"train": "rows.jsonl", "validation": 3, "max_length": 128},
        "eval": {"every": 1, "completions_per_prompt": 1},
        "guard": {"keep_best": False},
    }
    recipes: dict[str, dict[str, Any]] = {
        "ppo": {
            **plain, "value": {"type": "adapter"}, "ptx": {"source": "rows.jsonl"},
            "ppo": {"minibatch_size": 4, "micro_batch_size": 1, "activation_checkpointing": True},
        },
        "full": {
            **plain, "peft": "full", "memory": "separate", "value": {"type": "copy"}, "guard": {"keep_best": True},
        },
        "failing": {**plain, "rewards": [{"type": "function", "function": "mine.py:score"}],
                    "data": {"train": "rows.jsonl"}, "eval": None, "checkpoint": {"every": "never"}},
    }  # fmt: skip
    for name, sections in recipes.items():
        kept = {key: section for key, section in sections.items() if section is not None}
        (place / f"{name}.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")
    ports = [str(free_port()) for _ in CASES]
    run_pair("tests.recipes.ppo_ranks", place, *ports, FTUNE_CACHE=str(place / "cache"))
    return place


def errors(folder: Path, case: str) -> list[str]:
    """What each rank ended with."""
    return [json.loads((folder / f"rank_{rank}.json").read_text())[case] for rank in range(2)]


def told(run: Path) -> list[dict[str, Any]]:
    """What the history of a run says of its iterations, but for what the machine decides."""
    measured = {"time", "seconds", "tokens_per_s", "rollout_tokens_per_s", "memory_gib"}
    history = [event for event in read_events(run / "events.jsonl") if event["kind"] in ("step", "eval")]
    return [{name: value for name, value in event.items() if name not in measured} for event in history]


def split(run: Path) -> bool:
    """Whether the model was, by what the run says of itself."""
    return next(bool(event["split"]) for event in read_events(run / "events.jsonl") if event["kind"] == "model")


@pytest.mark.slow
def test_fsdp_makes_the_run_of_ddp(folder: Path) -> None:
    assert errors(folder, "ddp") == errors(folder, "fsdp") == ["", ""]
    assert [split(folder / "runs" / name) for name in ("ddp", "fsdp")] == [False, True]
    copies, shards = told(folder / "runs/ddp"), told(folder / "runs/fsdp")
    assert [event["kind"] for event in copies] == ["eval", "step", "eval", "step", "eval"]
    for one, two in zip(copies, shards, strict=True):
        assert one.pop("kind") == two.pop("kind")
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5)
    written = [
        [json.loads(line) for line in (folder / f"runs/{name}/samples.jsonl").read_text().splitlines()]
        for name in ("ddp", "fsdp")
    ]
    for ours, theirs in zip(*written, strict=True):
        assert ours["completion"] == theirs["completion"]
        assert ours["kl"] == pytest.approx(theirs["kl"], abs=2e-4)


@pytest.mark.slow
def test_what_was_split_is_saved_whole_and_loads(folder: Path, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    copies, shards = (load_file(folder / f"runs/{name}/adapter/adapter_model.safetensors") for name in ("ddp", "fsdp"))
    assert copies.keys() == shards.keys()
    assert all(torch.allclose(value, shards[name], atol=1e-5) for name, value in copies.items())
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    policy = PeftModel.from_pretrained(base, str(folder / "runs/fsdp/adapter"))
    trained = load_file(folder / "runs/fsdp/checkpoint-2/trainable.safetensors")
    lora = {f"model.{name}": value for name, value in policy.named_parameters() if ".lora_" in name}
    assert lora
    assert all(torch.equal(value, trained[name]) for name, value in lora.items())
    heads = [load_file(folder / f"runs/{name}/value/value_head.safetensors") for name in ("ddp", "fsdp")]
    assert torch.allclose(heads[0]["weight"], heads[1]["weight"], atol=1e-5)
    assert float(heads[0]["weight"].abs().max()) > 0


@pytest.mark.slow
def test_a_resumed_run_of_shards_is_the_run_that_nothing_stopped(folder: Path) -> None:
    assert errors(folder, "resumed") == ["", ""]
    assert told(folder / "runs/resumed") == told(folder / "runs/fsdp")
    for file in ("adapter/adapter_model.safetensors", "checkpoint-2/trainable.safetensors", "samples.jsonl"):
        assert (folder / "runs/resumed" / file).read_bytes() == (folder / "runs/fsdp" / file).read_bytes()


@pytest.mark.slow
def test_a_whole_model_is_split_and_saved(folder: Path, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    assert errors(folder, "full") == ["", ""]
    assert split(folder / "runs/full")
    before, after = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (tiny_model, folder / "runs/full/model")
    )
    assert before.keys() == after.keys()
    assert not all(torch.equal(value, after[name]) for name, value in before.items())
    assert (folder / "runs/full/value/value/config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_reward_that_fails_on_one_process_ends_both_and_loses_nothing(folder: Path, kind: str) -> None:
    first, second = errors(folder, f"failed {kind}")
    assert first.startswith("LostError: process 1 (")
    assert "KeyError: 'no such word'" in first
    assert "KeyError: 'no such word'" in second
    assert (folder / f"runs/failed {kind}/checkpoint-1").is_dir()


# -- what a launcher asks for ------------------------------------------------------------------------------------------

SPLIT = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}

REFUSED: dict[str, tuple[dict[str, str], dict[str, Any], list[str]]] = {
    "DeepSpeed": ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, ["DeepSpeed", "use 'ddp'", "'fsdp'"]),
    "offloaded shards": ({**SPLIT, "FSDP_OFFLOAD_PARAMS": "true"}, {}, ["keeps shards on their device"]),
    "quantised shards": (SPLIT, {"quantization": "nf4"}, ["model.quantization", "FSDP2"]),
    "an optimiser without shards": (SPLIT, {"optimizer": "adafactor"}, ["optim.optimizer", "adafactor"]),
    "an engine without shards": (SPLIT, {"rollout": "continuous"}, ["rollout.type", "continuous", "generate"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_launcher_asks_for_in_vain_is_refused(
    what: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, sections, words = REFUSED[what]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    recipe = PpoRecipe.model_validate(
        {
            "model": {"path": str(tiny_model), "quantization": {"type": sections.get("quantization", "none")}},
            "data": {"train": "rows.jsonl"},
            "rewards": [{"type": "repetition"}],
            "rollout": {"type": sections.get("rollout", "auto")},
            "optim": {"optimizer": sections.get("optimizer", "adamw")},
        }
    )
    with pytest.raises(LaunchError) as refused:
        open_processes(recipe, Ranks(World(0, 2, 0, 2, 1, 0, "accelerate")), Say())
    assert [word for word in words if word not in str(refused.value)] == []


def test_settings_of_ddp_reach_the_wrapper(tiny_model: Path) -> None:
    recipe = PpoRecipe.model_validate(
        {
            "model": {"path": str(tiny_model)},
            "data": {"train": "rows.jsonl"},
            "rewards": [{"type": "repetition"}],
            "backend": {"type": "ddp", "device": "cpu", "bucket_mib": 7, "find_unused_parameters": True},
        }
    )
    wrapper = open_processes(recipe, Ranks(), Say()).accelerator.ddp_handler
    assert (wrapper.bucket_cap_mb, wrapper.find_unused_parameters, wrapper.broadcast_buffers) == (7, True, False)
