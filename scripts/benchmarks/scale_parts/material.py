"""What the runs need, written in one process of its own while the first of them starts."""

import json
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from backends_parts.kills import EVERY
from backends_parts.kills import STEPS as KILL_STEPS
from backends_parts.material import MIDDLE, TINY, Size, make_material, recipe, write_recipe, write_rows
from plan_parts.material import write_model, write_tokenizer
from plan_parts.settings import SHAPES
from plan_parts.settings import TINY as TINY_SHAPES
from ppo_parts.iteration import recipe_of
from ppo_parts.work import lora_settings

from scale_parts.settings import KILL, PPO, PPO_ROWS, SIZES, STEPS, TINY_PPO, TINY_SIZES, Job

DTYPE = "auto"
"""bf16 on a GPU that computes it."""

ROWS = 512
"""At least the rows of all steps whose losses are compared, on 8 GPUs."""


class Material:
    """Models, rows and recipes under a folder."""

    def __init__(self, folder: Path, *, tiny: bool) -> None:
        self.folder, self.tiny = folder, tiny
        self.sizes = TINY_SIZES if tiny else SIZES
        self.work = TINY_PPO if tiny else PPO
        self._made: list[Future[None]] = []

    def begin(self, jobs: list[Job]) -> None:
        """Begin to write all that they need, in a process that ends with it: what it used of a GPU is free then."""
        kinds = {(job.setting.model, job.setting.kind) for job in jobs}
        pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        for model in dict.fromkeys(job.setting.model for job in jobs):
            folder = self.folder / model
            if model == KILL.model:
                self._made.append(pool.submit(make_material, folder, TINY if self.tiny else MIDDLE, ROWS))
                continue
            self._made.append(pool.submit(write_inputs, folder, self._shape(model), self.sizes[model]))
            if (model, "ppo") in kinds:
                self._made.append(pool.submit(write_ppo_inputs, folder, self.work.prompt_tokens))
        pool.shutdown(wait=False)

    def ready(self, job: Job) -> None:
        """Wait for what a job needs; where speed is measured, for everything, so that nothing is written meanwhile."""
        for made in self._made[:1] if job.setting.kind == "kill" else self._made:
            made.result()

    def recipe(self, job: Job) -> Path:
        """The recipe of a job, written down."""
        if job.setting.kind == "kill":
            return write_recipe(self.folder / KILL.model, TINY if self.tiny else MIDDLE, KILL_STEPS, DTYPE, EVERY)
        path = self.folder / job.setting.model / f"{job.file}.json"
        path.write_text(json.dumps(self._sections(job), indent=2), encoding="utf-8")
        return path

    def _sections(self, job: Job) -> dict[str, Any]:
        model = job.setting.model
        folder = self.folder / model
        if job.setting.kind == "ppo":
            work = replace(self.work, prompts=self.work.prompts * job.gpus)
            return recipe_of(folder, folder / "model", work, "trunk", "auto", PPO_ROWS)
        made = recipe(folder, self.sizes[model], STEPS[model], DTYPE, "never")
        # so short a run would not compile its layers, and backends that hold weights in parts never do
        return {
            **made,
            "batch": {**made["batch"], "activation_checkpointing": model == "8B"},
            "speed": {"compiled_layers": "off"},
        }

    def _shape(self, model: str) -> dict[str, Any]:
        return (TINY_SHAPES if self.tiny else SHAPES)[model]


def write_inputs(folder: Path, shape: dict[str, Any], size: Size) -> None:
    """A model with its tokenizer, and rows, where they are not there yet."""
    write_model(folder / "model", shape)
    if not (folder / "rows.jsonl").is_file():
        write_rows(folder / "rows.jsonl", ROWS, size.length - 1, size.vocabulary)


def write_ppo_inputs(folder: Path, prompt_tokens: int) -> None:
    """Prompts, and a reward adapter for the model in `folder` with random weights and the facts that it needs."""
    if (folder / "prompts.jsonl").is_file():
        return
    import torch
    from peft import get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from ftune.models.fingerprint import base_fingerprint
    from ftune.models.reward_facts import RewardFacts

    base, reward = folder / "model", folder / "reward"
    config = AutoConfig.from_pretrained(base, num_labels=1)
    with torch.device("meta"):  # the base's weights are not wanted, only the shapes of what goes on it
        scorer = get_peft_model(AutoModelForSequenceClassification.from_config(config), lora_settings("SEQ_CLS"))
    scorer.peft_config["default"].save_pretrained(reward)
    shapes = {name: tensor.shape for name, tensor in get_peft_model_state_dict(scorer).items()}
    save_file({name: torch.randn(shape) * 0.02 for name, shape in shapes.items()}, reward / "adapter_model.safetensors")
    write_tokenizer(reward, config.vocab_size)
    RewardFacts("scalar", str(base), base_fingerprint(str(base))).write(reward)
    write_rows(folder / "prompts.jsonl", ROWS, prompt_tokens, config.vocab_size)
