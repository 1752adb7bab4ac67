"""The model card of a run, written from its facts; licence, purpose and limits are left to its author."""

import json
from dataclasses import dataclass, field

import yaml

from ftune.report.markdown import block, code, escape, table
from ftune.report.measures import duration_in_words


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells. Texts may hold anything: they are escaped, and secrets in them are masked."""

    title: str
    base_model: str
    """As the recipe names it: a hub id, a folder, a file or a wheel."""
    on_hub: bool
    """Whether `base_model` is a hub id, which the front matter may then name."""
    task: str
    """In words, such as "supervised fine-tuning"."""
    method: str
    """The `type` of the recipe's peft section: "lora", "full", ..."""
    folder: str
    """Where the result lies, relative to the card: "adapter" or "model"."""
    chat: bool
    """Whether the model has a chat template."""
    own_tuner: bool
    """Whether peft knows the adapter only through ftune."""
    command: str
    recipe: str
    """The YAML text as given."""
    rows: dict[str, int]
    """Rows that were trained on, by the name of their source."""
    outputs: int = 0
    """Outputs of the head of a reward model or classifier; 0 for a language model."""
    hub_datasets: list[str] = field(default_factory=list)
    counts: dict[str, object] = field(default_factory=dict)
    """More about the data: tokens, rows dropped or truncated, ..."""
    results: dict[str, float | None] = field(default_factory=dict)
    """Final losses and accuracies, by their name in words."""
    hardware: str = ""
    duration_s: float | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def is_adapter(self) -> bool:
        """Whether the result is loaded by peft, on top of its base model."""
        return self.folder == "adapter"


def model_card(facts: CardFacts) -> str:
    """The `README.md` of a run: front matter for the model hub, results, loading, training."""
    kind = f"{facts.method} adapter for" if facts.is_adapter else "fine-tuned version of"
    machine = {"hardware": facts.hardware, "training time": duration_in_words(facts.duration_s)} | facts.versions
    sections = [
        _front_matter(facts),
        f"# {escape(facts.title)}",
        f"A {escape(kind)} {code(facts.base_model)}, made by {escape(facts.task)} with ftune.",
        table("At the end of training", {name: _number(value) for name, value in facts.results.items()}),
        "## Load it",
        f"In the folder of this file, with {_packages(facts)}:",
        block("python", _loading(facts)),
        "## How it was trained",
        block("bash", facts.command),
        block("yaml", facts.recipe),
        table("Rows trained on", {name: f"{count:,}" for name, count in facts.rows.items()}),
        table("Data", facts.counts),
        table("Machine", machine),
        "## To be written by its author",
        "What the model is for, what it must not be used for, and its licence: those of the base model and of the data "
        "have a say in it.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(facts: CardFacts) -> str:
    tags = ["ftune", facts.task.replace(" ", "-"), *([facts.method] if facts.is_adapter else [])]
    entries: dict[str, object] = {
        "library_name": "peft" if facts.is_adapter else "transformers",
        "pipeline_tag": "text-classification" if facts.outputs else "text-generation",
        "tags": tags,
    }
    if facts.on_hub:
        entries = {"base_model": facts.base_model, **entries}
    if facts.hub_datasets:
        entries["datasets"] = facts.hub_datasets
    matter = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)
    return f"---\n{matter}# license: to be filled in by the author\n---"


def _packages(facts: CardFacts) -> str:
    if facts.own_tuner:
        return "transformers, peft and ftune"
    return "plain transformers and peft" if facts.is_adapter else "plain transformers"


def _loading(facts: CardFacts) -> str:
    package, loader = (
        ("peft", "AutoPeftModelForCausalLM") if facts.is_adapter else ("transformers", "AutoModelForCausalLM")
    )
    if facts.outputs:
        loader = loader.replace("ForCausalLM", "ForSequenceClassification")
    imports = [f"from {package} import {loader}", "from transformers import AutoTokenizer"]
    if not facts.is_adapter:
        imports = [f"from transformers import {loader}, AutoTokenizer"]
    if facts.own_tuner:
        imports.append("import ftune.peft.tuners  # makes this kind of adapter known to peft")
    if facts.outputs:
        return "\n".join([*imports, "", *_scoring(facts, loader)])
    messages = 'tokenizer.apply_chat_template(\n    [{"role": "user", "content": "..."}], add_generation_prompt=True, '
    inputs = (
        messages + 'return_dict=True, return_tensors="pt"\n)' if facts.chat else 'tokenizer("...", return_tensors="pt")'
    )
    return "\n".join(
        [
            *imports,
            "",
            f"model = {loader}.from_pretrained({json.dumps(facts.folder)})",
            f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(facts.folder)})",
            f"inputs = {inputs}",
            'tokens = model.generate(**inputs, max_new_tokens=256)[0, inputs["input_ids"].shape[1] :]',
            "print(tokenizer.decode(tokens, skip_special_tokens=True))",
        ]
    )


def _scoring(facts: CardFacts, loader: str) -> list[str]:
    """How a row is scored: whole, as it was in training."""
    folder = json.dumps(facts.folder)
    head = f", num_labels={facts.outputs}, pad_token_id=tokenizer.pad_token_id" if facts.is_adapter else ""
    text = 'tokenizer("..." + tokenizer.eos_token, return_tensors="pt")'
    if facts.chat and facts.outputs == 1:
        turns = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
        text = f'tokenizer.apply_chat_template(\n    {turns},\n    return_dict=True, return_tensors="pt"\n)'
    return [
        f"tokenizer = AutoTokenizer.from_pretrained({folder})",
        f"model = {loader}.from_pretrained({folder}{head}).eval()",
        f"inputs = {text}",
        "print(model(**inputs).logits)",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
