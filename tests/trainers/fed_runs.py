"""Runs of the trainer on a tiny model, whose weights and events tests compare."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ftune.core.say import Say
from ftune.data.stream import Position
from ftune.peft.hook import TrainingHook
from ftune.recipes.load import load_recipe
from ftune.recipes.runs.inputs import Inputs, load_inputs
from ftune.report.events import EventLog, read_events
from ftune.trainers.fed import Feeding
from ftune.trainers.feed import PreparedDataset, StreamDataset
from ftune.trainers.method import Method
from ftune.trainers.sft import train_sft
from ftune.trainers.speed import at_speed
from ftune.trainers.training import Around
from tests.conftest import chat_rows, write_rows

Weights = dict[str, torch.Tensor]
Train = Callable[..., Weights]

ROWS = 22
"""Of 8 a step: the last step of an epoch has 6."""


class Shrink(TrainingHook):
    """Trains weights to be small, by a term in the loss that a step is to have once."""

    def __init__(self, model: Any) -> None:
        self.trained = [value for value in model.parameters() if value.requires_grad]

    def regulariser(self) -> torch.Tensor:
        """A tenth of the squares."""
        return torch.stack([0.1 * value.square().sum() for value in self.trained]).sum()

    def begin(self, steps: int) -> None:
        """Nothing to prepare."""

    def after_step(self, step: int) -> dict[str, object]:
        """Nothing to tell."""
        return {}

    def state(self) -> Weights:
        """Nothing to remember."""
        return {}

    def restore(self, state: Weights) -> None:
        """Nothing to bring back."""


def recipe_of(path: Path, **sections: Any) -> Any:
    path.write_text(yaml.safe_dump({"type": "sft", "optim": {"learning_rate": 0.01}, **sections}))
    return load_recipe("sft", path).recipe


def feed_of(inputs: Inputs, checkpoint: Path | None, *, packing: bool) -> PreparedDataset | StreamDataset:
    """The rows; a stream from where the checkpoint stands, packed ones in pairs."""
    if inputs.stream is not None:
        start = json.loads((checkpoint / "ftune.json").read_text())["stream"] if checkpoint else []
        return StreamDataset(inputs.stream, Position(*start))
    pairs = [[number, number + 1] for number in range(0, ROWS, 2)]
    return PreparedDataset(inputs.train, pairs if packing else None)


@dataclass(frozen=True)
class Shape:
    """What a run trains, on what, and how it is cut."""

    micro: int = 2
    accumulation: int = 4
    steps: int = 7
    packing: bool = False
    stream: bool = False
    dropout: float = 0.0
    every: int = 100
    checkpoint: str = ""
    hook: bool = False
    every_log: int = 1
    full: bool = False
    bf16: bool = False
    """All weights in bf16, with the optimiser for them."""
    held_out: bool = False

    @property
    def whole(self) -> bool:
        """Whether all parameters train."""
        return self.full or self.bf16

    def recipe(self, folder: Path, model: Path) -> Any:
        """The recipe, on rows that are written into the folder."""
        rows = str(write_rows(folder / "rows.jsonl", chat_rows(ROWS)))
        data = {"train": rows, "max_length": 128, "packing": self.packing}
        data |= {"validation": rows} if self.held_out else {}
        return recipe_of(
            folder / "recipe.yaml",
            model={"path": str(model)},
            data=data | ({"streaming": {"shuffle_buffer": 6}} if self.stream else {}),
            peft={"type": "full"} if self.whole else {"type": "lora", "rank": 4, "dropout": self.dropout},
            log={"every": self.every_log},
            schedule={"max_steps": self.steps},
            batch={"micro_batch_size": self.micro, "gradient_accumulation_steps": self.accumulation},
            checkpoint={"every": self.every, "keep": 9},
            eval={"every": 3} if self.held_out else {},
        )


def train(folder: Path, base: Path, name: str, feeding: Feeding | None, **how: Any) -> Weights:
    """Train a LoRA of the model `base`, or all of it; what it tells is in the folder of that name."""
    shape = Shape(**how)
    recipe = shape.recipe(folder, base)
    inputs = load_inputs(recipe, Say())
    torch.manual_seed(0)
    model: Any = recipe.peft.wrap(recipe.model.load(inputs.located, "bf16" if shape.bf16 else "fp32", "cpu"), None)
    run = folder / name
    run.mkdir(exist_ok=True)
    found = run / shape.checkpoint if shape.checkpoint else None
    probed = [inputs.train.ids(index) for index in (0, 1)]
    with at_speed(model, probed, torch.bfloat16 if shape.bf16 else torch.float32) as speed:
        assert speed.attention
        assert speed.fused_loss
        train_sft(
            model,
            inputs.tokenizer,
            feed_of(inputs, found, packing=shape.packing),
            PreparedDataset(inputs.validation) if inputs.validation else None,
            Around(
                args={**recipe.training_args(), "output_dir": str(run), "bf16": shape.bf16, "use_cpu": True},
                trains_bf16=shape.bf16,
                events=EventLog(run / "events.jsonl", int(found.name.rpartition("-")[2]) if found else None),
                facts={},
                say=Say(),
                method=Method(not shape.whole, Shrink(model) if shape.hook else None),
                checkpoint=found,
                mfu=lambda tokens, squares, trained, seconds: tokens + squares / 1e4,
            ),
            packed=shape.packing,
            speed=speed,
            feeding=feeding,
        )
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def told(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    """Events without what was measured by the clock."""
    measured = {"time", "tokens_per_s", "memory_gib", "seconds"}
    return [
        {key: value for key, value in event.items() if key not in measured}
        for event in read_events(folder / "events.jsonl")
        if event["kind"] in (kinds or ("step", "skipped"))
    ]


def assert_alike(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """The same events, numbers but for rounding."""
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert value == (pytest.approx(right[key], rel=1e-4) if isinstance(value, float) else right[key]), key


def assert_close(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)
