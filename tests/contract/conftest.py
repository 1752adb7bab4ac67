"""Adapters that some methods start from."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.library_cases import EXPERTS


@pytest.fixture(scope="session", autouse=True)
def experts(tiny_model: Path) -> Iterator[Path]:
    """Two LoRA adapters of the tiny model that do something."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(EXPERTS / name)
    yield EXPERTS
    shutil.rmtree(EXPERTS)
