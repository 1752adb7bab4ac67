"""What the shipped recipes of `ftune ppo` start from, of random weights that fit the tiny Llama."""

from pathlib import Path


def write_adapter(tiny_model: Path, folder: Path) -> None:
    """A LoRA adapter on the upper layer, as a run of `ftune sft` leaves it."""
    from transformers import AutoModelForCausalLM

    from ftune.peft.lora import Lora

    Lora(rank=4, layers=[1]).wrap(AutoModelForCausalLM.from_pretrained(tiny_model)).save_pretrained(folder / "adapter")


def write_judge(tiny_model: Path, folder: Path, classes: list[str]) -> None:
    """A sequence classifier; with one class it is a reward model."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(len(classes))
    config = AutoConfig.from_pretrained(tiny_model)
    config.id2label = dict(enumerate(classes))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
