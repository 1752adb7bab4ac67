"""What `ftune ppo` keeps in memory beside its policy: reference, value, rewards and the engine of its rollouts."""

import json
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ftune.core.errors import FtuneError
from ftune.models.config import read_config
from ftune.models.reward_facts import read_reward_facts
from ftune.peft.lora import Lora
from ftune.plan.adapter import Adapter
from ftune.plan.families import shape_of_config
from ftune.plan.job import BYTES, Roles
from ftune.plan.shape import ModelShape
from ftune.recipes.ppo_sections import adapter_folder
from ftune.recipes.runs.plan_rows import json_object
from ftune.rewards.classifiers.find import check_classifier_path, is_adapter, result_folder

if TYPE_CHECKING:
    from ftune.recipes.ppo import PpoRecipe
    from ftune.rewards.base import RewardSource

Engine = Literal["generate", "continuous", "graph", "vllm"]

OF_GRAPH = ("llama", "mistral", "qwen2", "qwen3")
"""Models that the graph engine serves (`ftune.ppo.rollout.graphs.layout`, which needs torch)."""

WEIGHTS = ("adapter_model.safetensors", "model.safetensors")


@dataclass(slots=True)
class _Judges:
    """Reward models, as they are found."""

    adapters: int = 0
    models: list[ModelShape] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def roles_of(
    recipe: "PpoRecipe",
    shape: ModelShape,
    adapter: Adapter,
    world: int,
    *,
    split: bool,
    on_gpu: bool,
    free: int | None,
) -> tuple[Roles, list[str]]:
    """The roles of one process of `world`, and what had to be taken on trust.

    `free` are bytes of the device beside the base's weights; None where nobody knows.
    """
    judges = _Judges()
    for source in [*recipe.sources, *recipe.gold]:
        _add(judges, source, recipe, shape, adapter)
    rollout = recipe.rollout
    completions = max(1, rollout.batch_size // world)
    engine = _engine(rollout.type, shape, split=split, on_gpu=on_gpu)
    at_once = {"generate": 32, "graph": 256}.get(engine, completions)
    room = shape.positions and shape.positions - rollout.max_new_tokens
    value = "trunk" if recipe.value.type == "auto" else recipe.value.type
    reference: Literal["base", "adapter", "copy"] = "copy"
    if recipe.shared:
        reference = "adapter" if recipe.model.adapter is not None else "base"
    roles = Roles(
        shared=recipe.shared,
        value=value,
        reference=reference,
        reward_models=tuple(judges.models),
        reward_adapters=judges.adapters,
        engine=engine,
        completions=completions,
        at_once=min(completions, getattr(rollout, "micro_batch_size", at_once)),
        merged=_merged(getattr(rollout, "weights", "auto"), shape, free),
        prompt_tokens=min(recipe.data.max_length, room) if room > 0 else recipe.data.max_length,
        new_tokens=rollout.max_new_tokens,
        gpu_share=rollout.gpu_memory_utilization if getattr(rollout, "mode", "") == "colocate" else 0.0,
    )
    return roles, judges.notes


def started_from(recipe: "PpoRecipe", peft: Any) -> Any:
    """The method of the policy: the recipe's, or LoRA as the adapter has it that the policy starts from."""
    folder = adapter_folder(recipe.model.adapter) if recipe.model.adapter else None
    if folder is None:
        return peft
    told = json_object(folder / "adapter_config.json")
    modules, rank, layers = told.get("target_modules"), told.get("r"), told.get("layers_to_transform")
    given: dict[str, Any] = {"rank": rank} if isinstance(rank, int) else {}
    if isinstance(modules, list) and modules:
        given["target_modules"] = modules
    if isinstance(layers, list) and layers:
        given["layers"] = layers
    return Lora(**given)


def _engine(asked: str, shape: ModelShape, *, split: bool, on_gpu: bool) -> Engine:
    """What `auto` means, as the run would decide it."""
    if split or asked == "generate":
        return "generate"
    if asked == "auto":
        return "graph" if on_gpu and shape.family in OF_GRAPH else "generate"
    return "continuous" if asked == "continuous" else "graph" if asked == "graph" else "vllm"


def _merged(asked: str, shape: ModelShape, free: int | None) -> bool:
    """Whether the graph engine copies the weights: `auto` does where they fit into a quarter of the free memory."""
    copies = BYTES["bf16"] * shape.layers * shape.layer_weights
    return asked == "merged" or (asked == "auto" and (free is None or copies <= free / 4))


def _add(judges: _Judges, source: "RewardSource", recipe: "PpoRecipe", shape: ModelShape, adapter: Adapter) -> None:
    """Count the memory of one source; most have none."""
    path = getattr(source, "path", None)
    if getattr(source, "type", "") not in ("model", "classifier") or not isinstance(path, str):
        return
    if check_classifier_path(path):
        judges.notes.append(f"reward model '{path}' is not here: taken as an adapter as large as the policy's")
        judges.adapters += adapter.parameters
        return
    folder = result_folder(path)
    try:
        if is_adapter(folder):
            _add_adapter(judges, source, folder, recipe, shape)
        else:
            judges.models.append(shape_of_config(read_config(folder), folder))
    except FtuneError as error:
        judges.notes.append(f"reward model '{path}' is not counted: {error}")


def _add_adapter(judges: _Judges, source: "RewardSource", folder: str, recipe: "PpoRecipe", shape: ModelShape) -> None:
    """An adapter goes on the policy's base where it was trained on the same model; else it brings a base along."""
    facts = read_reward_facts(Path(folder))
    told = str(json_object(Path(folder) / "adapter_config.json").get("base_model_name_or_path") or "")
    base = facts.base_model if facts else told
    size = sum(_numbers(Path(folder) / name) for name in WEIGHTS)
    never = getattr(source, "share_base", "auto") == "never"
    mine = shape_of_config(read_config(base), base) if base and not check_classifier_path(base) else shape
    if recipe.shared and not never and mine.parameters == shape.parameters:
        judges.adapters += size
    else:
        judges.models.append(mine)


def _numbers(path: Path) -> int:
    """Numbers in a safetensors file, by its header (8 bytes of length, then JSON); 0 without such a file."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), 1 << 26)))
    except (OSError, ValueError):
        return 0
    return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
