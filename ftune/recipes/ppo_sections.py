"""The sections that only `ftune ppo` has, beside the algorithm's own in `ftune/ppo/settings.py`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ftune.core.errors import ModelError
from ftune.core.paths import expanded
from ftune.core.section import Location, Section
from ftune.recipes.data_section import Format, Source, Validation, as_sources, as_validation, bare_path
from ftune.recipes.model_section import Model
from ftune.recipes.training_sections import Count, Optim, Tracked

Positive = Annotated[float, Field(gt=0)]


class PolicyModel(Model):
    """The model that becomes the policy."""

    adapter: str | None = None
    """A LoRA adapter that the policy starts from and that the reference keeps: a run of `ftune sft`, or an adapter's
    folder. Without one, policy and reference start as the model itself."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """Those of any model, and an adapter that is not there."""
        for place, problem in super().faults():
            given = adapter_folder(self.path) if place == ("path",) else None
            way = f"; or give its base here and 'model.adapter: {self.path}'" if given else ""
            yield place, f"{problem}{way}"
        if self.adapter is not None and adapter_folder(self.adapter) is None:
            yield ("adapter",), f"'{self.adapter}' holds no adapter (adapter_config.json); give a run or its 'adapter'"

    def start(self, located: str) -> Path | None:
        """The folder of the adapter to start from, on the base at `located`. Raises ModelError for one of another base.

        That can be told where the adapter's own base is still in its place.
        """
        folder = adapter_folder(self.adapter) if self.adapter else None
        if folder is None:
            return None
        from ftune.models.fingerprint import base_fingerprint

        trained_on, task = _facts_of(folder)
        if task == "SEQ_CLS":
            raise ModelError(
                f"model.adapter: '{self.adapter}' is a reward model or a classifier, which writes no text; give the "
                "result of 'ftune sft', and this one as --reward-model"
            )
        in_place = trained_on != located and any(Path(trained_on).glob("*.safetensors"))
        if trained_on and in_place and base_fingerprint(trained_on) != base_fingerprint(located):
            raise ModelError(
                f"model.adapter: '{self.adapter}' was trained on '{trained_on}', whose weights are not those of "
                f"'{self.path}'; give its own base as model.path"
            )
        return folder


def adapter_folder(path: str) -> Path | None:
    """The folder of an adapter: that of a run, or the path itself."""
    for folder in (expanded(path) / "adapter", expanded(path)):
        if (folder / "adapter_config.json").is_file():
            return folder
    return None


def _facts_of(folder: Path) -> tuple[str, str]:
    """What an adapter says that it was trained on, and for; empty where it does not. Raises ModelError."""
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return str(config.get("base_model_name_or_path") or ""), str(config.get("task_type") or "")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"model.adapter: {path} is not what 'ftune sft' or peft writes ({error})") from None


class Prompts(Section):
    """The prompts. Rows with an answer are asked what comes before it, and the answer goes to the rewards."""

    train: Annotated[
        list[Source],
        Field(min_length=1),
        BeforeValidator(as_sources, json_schema_input_type=str | Source | list[str | Source]),
    ]
    """Rows with prompts: a path, a source or a list of them, in any format that `ftune sft` reads."""

    validation: Annotated[
        Validation | None,
        BeforeValidator(as_validation, json_schema_input_type=str | float | int | Source | Validation | None),
    ] = None
    """Held-out prompts: a path, a share (`0.05`) or a number (`64`) of the training prompts."""

    format: Format = None
    """Layout of the rows; by default (`auto`) it is detected from the first rows and the reason is said."""

    max_length: Annotated[int, Field(ge=1)] = 512
    """Longest prompt in tokens."""

    on_bad_row: Literal["error", "drop"] = "error"
    """A row that cannot be read ends the run, or is dropped and counted."""

    on_long_row: Literal["error", "drop"] = "drop"
    """A prompt over `max_length` ends the run, or is dropped and counted."""


class PpoOptim(Optim):
    """The optimiser."""

    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "adafactor", "sgd"] = "adamw"
    """`adamw` is PyTorch's (fused where it can be); the 8-bit and paged ones need bitsandbytes and a GPU."""

    learning_rate: Literal["auto"] | Positive = "auto"
    """The policy's peak learning rate; `auto` is 5e-5 with LoRA, which a model of 135M parameters wants ten times as
    large, and 1e-6 with `full`."""

    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.9, 0.95]
    )
    """Decay of AdamW's two moments."""

    eps: Positive = 1e-5
    """AdamW's epsilon (1e-5 as in the implementations of arXiv:2403.17031)."""

    @model_validator(mode="after")
    def _eps_of_adamw(self) -> Self:
        if self.eps != type(self).model_fields["eps"].default and "adamw" not in self.optimizer:
            raise ValueError(f"eps belongs to AdamW; '{self.optimizer}' has none, remove it")
        return self


class PpoSchedule(Section):
    """How long, and the learning rate over time."""

    iterations: Count = 200
    """Iterations: rollouts, then updates on them."""

    warmup_iterations: Annotated[int, Field(ge=0)] = 0
    """Iterations in which the learning rate rises to its peak."""

    type: Literal["constant", "linear", "cosine"] = "constant"
    """Shape after the warm-up."""


class PpoEval(Section):
    """Completions of held-out prompts, before, while and after the policy is trained."""

    every: Count | Literal["never"] = 20
    """Iterations between evaluations."""

    completions_per_prompt: Count = 4
    """Completions of each held-out prompt."""


class PpoCheckpoint(Section):
    """What is kept while training, to resume from."""

    every: Count | Literal["never"] = 20
    """Iterations between checkpoints."""

    keep: Count = 2
    """Checkpoints kept; older ones are removed."""


class PpoLog(Tracked):
    """What is shown, written and sent while training."""

    every: Count = 1
    """Iterations between points of the curves."""

    samples_every: Count | Literal["never"] = 10
    """Iterations between samples of completions, on the terminal and in `samples.jsonl`."""

    samples: Count = 8
    """Completions written at a time; two of them are shown."""


class PtxText(Section):
    """Ordinary text that the policy is also trained on, so that it does not forget (PPO-ptx)."""

    source: Annotated[Source, BeforeValidator(bare_path, json_schema_input_type=str | Source)]
    """Rows: plain text, or the rows of `ftune sft`, of which everything is trained."""

    coefficient: Positive = 0.1
    """Weight of the language-modelling loss; InstructGPT's 27.8 goes with its own scale of losses and rates."""

    micro_batch_size: Count = 4
    """Sequences beside each optimiser step, on each device."""

    max_length: Annotated[int, Field(ge=8)] = 512
    """Tokens of a sequence; longer texts are split."""
