"""The model card of a merged model: where it comes from, how it was proved, how to load it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from ftune.report.markdown import block, code, escape, table


@dataclass(frozen=True, slots=True)
class MergeFacts:
    """What the card of a merged model tells."""

    title: str
    base_model: str
    """As it was given: a hub id, a folder, a file or a wheel."""
    on_hub: bool
    sources: Sequence[tuple[str, float, str]]
    """Each source: its path, its weight, and the sha256 of its adapter (empty for a whole model)."""
    method: str
    """How several were combined."""
    command: str
    chat: bool
    classifier: bool
    proof: Mapping[str, str] = field(default_factory=dict)
    """What was measured; empty without a proof."""
    versions: Mapping[str, str] = field(default_factory=dict)


def merge_card(facts: MergeFacts) -> str:
    """The `README.md` of a merged model."""
    sources = {f"{path} (weight {weight:g})": digest[:16] or "a whole model" for path, weight, digest in facts.sources}
    sections = [
        _front_matter(facts),
        f"# {escape(facts.title)}",
        f"{code(facts.base_model)} with what was trained on it added to its weights, made by ftune.",
        "## Load it",
        "In the folder of this file, with plain transformers; vLLM serves it as it is:",
        block("python", _loading(facts)),
        "## Where it comes from",
        block("bash", facts.command),
        table("Source, and the start of the sha256 of its adapter", sources),
        table("How", {"base": facts.base_model, "combined by": facts.method if len(facts.sources) > 1 else ""}),
        table("Proof: this model beside its base with the adapter on it", facts.proof)
        or "It was not compared with its sources.",
        table("Versions", facts.versions),
        "## To be written by its author",
        "What the model is for, what it must not be used for, and its licence: those of the base model and of the data "
        "have a say in it.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(facts: MergeFacts) -> str:
    entries: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if facts.classifier else "text-generation",
        "tags": ["ftune", "merge"],
    }
    if facts.on_hub:
        entries = {"base_model": facts.base_model, **entries}
    matter = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
    return f"---\n{matter}# license: to be filled in by the author\n---"


def _loading(facts: MergeFacts) -> str:
    kind = "AutoModelForSequenceClassification" if facts.classifier else "AutoModelForCausalLM"
    lines = [
        f"from transformers import {kind}, AutoTokenizer",
        "",
        f'model = {kind}.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
    ]
    if facts.classifier:
        return "\n".join([*lines, 'print(model(**tokenizer("...", return_tensors="pt")).logits)'])
    turns = 'tokenizer.apply_chat_template(\n    [{"role": "user", "content": "..."}], add_generation_prompt=True,'
    inputs = (
        f'{turns} return_dict=True, return_tensors="pt"\n)' if facts.chat else 'tokenizer("...", return_tensors="pt")'
    )
    return "\n".join(
        [
            *lines,
            f"inputs = {inputs}",
            'tokens = model.generate(**inputs, max_new_tokens=256)[0, inputs["input_ids"].shape[1] :]',
            "print(tokenizer.decode(tokens, skip_special_tokens=True))",
        ]
    )
