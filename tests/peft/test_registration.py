"""ftune's tuners are peft's after one import."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.peft_types import PeftType
from transformers import AutoModelForCausalLM

import ftune.peft.tuners  # noqa: F401 - what is tested
from ftune.peft.adapter import Adapter
from ftune.peft.tuners.bottleneck.config import BottleneckConfig
from ftune.peft.tuners.bottleneck.model import BottleneckModel
from ftune.peft.tuners.registration import register

NAMES = ["BOTTLENECK", "ADAPTER_FUSION"]

PLAIN_PEFT = """
import sys, torch
import ftune.peft.tuners
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1])
torch.save(model.eval()(torch.tensor([[5, 9, 13]])).logits, sys.argv[2])
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_name_is_a_member_like_any_other(name: str) -> None:
    member = PeftType(name)
    assert member is PeftType[name] is getattr(PeftType, name)
    assert (member, member.name, member.value) == (name, name, name)
    assert [*PeftType].count(member) == 1
    assert hash(member) == hash(name)
    assert copy.deepcopy(member) is member
    assert pickle.loads(pickle.dumps(member)) is member  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", NAMES)
def test_peft_finds_config_and_tuner_by_the_string_of_a_saved_config(name: str) -> None:
    assert PEFT_TYPE_TO_CONFIG_MAPPING[name]().peft_type is PeftType[name]
    assert PEFT_TYPE_TO_PREFIX_MAPPING[name] == PEFT_TYPE_TO_TUNER_MAPPING[name].prefix


def test_registering_again_changes_nothing() -> None:
    before = list(PeftType)
    register("bottleneck", BottleneckConfig, BottleneckModel, BottleneckModel.prefix)
    assert list(PeftType) == before


def test_a_name_that_peft_has_is_refused() -> None:
    with pytest.raises(KeyError, match="already"):
        register("lora", PeftConfig, BaseTuner, "another_")
    assert issubclass(PEFT_TYPE_TO_CONFIG_MAPPING["LORA"], PeftConfig)
    assert PEFT_TYPE_TO_TUNER_MAPPING["LORA"] is not BaseTuner


def test_one_import_lets_peft_load_an_adapter_in_a_process_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    model = Adapter(size=4).wrap(AutoModelForCausalLM.from_pretrained(tiny_model))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    subprocess.run(
        [sys.executable, "-c", PLAIN_PEFT, str(tmp_path / "adapter"), str(tmp_path / "logits.pt")], check=True
    )
    with torch.no_grad():
        wanted = model.eval()(torch.tensor([[5, 9, 13]])).logits
    assert torch.allclose(torch.load(tmp_path / "logits.pt"), wanted, atol=1e-5)
