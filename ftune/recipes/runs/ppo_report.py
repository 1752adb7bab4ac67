"""What a run of PPO leaves for people: curves and a model card, drawn from its events alone."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftune.core.checkpoints import write_atomically
from ftune.data.reference import is_hub_id as is_hub_data
from ftune.models.reference import is_hub_id
from ftune.recipes.base import RunOptions
from ftune.recipes.runs.ppo_asked import Asked
from ftune.report.card import CardFacts, model_card
from ftune.report.curves import draw_curves
from ftune.report.events import Event, read_events
from ftune.report.run_folder import RunFolder

if TYPE_CHECKING:
    from ftune.recipes.ppo import PpoRecipe


def report(recipe: "PpoRecipe", folder: RunFolder, asked: Asked, options: RunOptions) -> None:
    """Curves and model card, drawn from the events alone."""
    history = read_events(folder.path / "events.jsonl")
    draw_curves(history, folder.path / "curves.png", folder.path.name)
    facts = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))
    card = CardFacts(
        title=folder.path.name,
        base_model=recipe.model.path,
        on_hub=is_hub_id(recipe.model.path),
        task="reinforcement learning",
        method=recipe.peft.type,
        folder="adapter" if recipe.shared else "model",
        chat=asked.text.template is not None,
        own_tuner=recipe.peft.own_tuner,
        command=options.command,
        recipe=options.text,
        rows={},
        hub_datasets=[source.path for source in recipe.data.train if is_hub_data(source.path)],
        counts={"prompts": len(asked.train.prompts), "held-out prompts": len(asked.held_out.prompts)},
        results=_results(history),
        hardware=facts["gpus"][0] if facts["gpus"] else "{threads} threads of {model}".format(**facts["cpu"]),
        duration_s=sum(sum(event["seconds"].values()) for event in history if event["kind"] == "step"),
        versions=facts["versions"],
    )
    write_atomically(folder.path / "README.md", model_card(card))


def _results(history: Sequence[Event]) -> dict[str, float | None]:
    """Held-out score before and of the result, and what it cost."""
    looks = {event["step"]: event for event in history if event["kind"] == "eval"}
    kept = next((event["step"] for event in reversed(history) if event["kind"] == "kept"), None)
    results: dict[str, float | None] = {}
    if looks:
        result = looks.get(kept) or list(looks.values())[-1]
        results = {"held-out score before": looks[min(looks)].get("score")}
        results["held-out score of the result"] = result.get("score")
        results["KL to the reference (nats a completion)"] = result["kl"]
    last = next((event for event in reversed(history) if event["kind"] == "step"), None)
    return results | ({"mean score of the last iteration": last.get("score")} if last else {})
