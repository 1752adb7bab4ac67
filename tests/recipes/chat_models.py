"""What chats are tried with: adapters and runs of the tiny model, and what its replies should be."""

import json
from pathlib import Path
from typing import Any

import torch

from ftune.recipes.runs.chat_sampling import Sampling

GREEDY = Sampling(temperature=0, max_new_tokens=12)


def write_adapter(model: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter with random weights that make a difference."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, r=4, target_modules=["q_proj", "down_proj"])
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    tuned.save_pretrained(str(folder))
    return folder


def write_run(folder: Path, model: Path, kind: str = "sft", state: str = "done") -> Path:
    """What is in a run's folder beside its result."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "recipe.resolved.json").write_text(json.dumps({"type": kind, "model": {"path": str(model)}}))
    (folder / "ftune.json").write_text(json.dumps({"state": state}))
    return folder


def by_transformers(tiny_model: Path, adapter: Path | None, ids: list[int], tokenizer: Any) -> str:
    """The greedy reply of the model that peft makes of base and adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    made = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    return str(tokenizer.decode(made, skip_special_tokens=True))


def quietly(text: str) -> None:
    """Nobody listens to a reply."""
