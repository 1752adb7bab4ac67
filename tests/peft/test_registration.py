"""ftune's tuners are peft's after one import."""

import copy
import pickle

import pytest
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.peft_types import PeftType

from ftune.peft.tuners.registration import register


class ExampleConfig(PeftConfig):
    """A config of no field."""


class ExampleModel(BaseTuner):
    """A tuner that is never built."""

    prefix = "example_of_"


@pytest.fixture
def example() -> str:
    register("example", ExampleConfig, ExampleModel, "example_of_")
    return "EXAMPLE"


def test_a_registered_name_is_a_member_like_any_other(example: str) -> None:
    member = PeftType(example)
    assert member is PeftType[example] is PeftType.EXAMPLE
    assert (member, member.name, member.value) == ("EXAMPLE", "EXAMPLE", "EXAMPLE")
    assert member in list(PeftType)
    assert hash(member) == hash(example)
    assert copy.deepcopy(member) is member
    assert pickle.loads(pickle.dumps(member)) is member  # noqa: S301 - our own bytes


def test_peft_finds_config_and_tuner_by_the_string_of_a_saved_config(example: str) -> None:
    assert PEFT_TYPE_TO_CONFIG_MAPPING[example] is ExampleConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[example] is ExampleModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING[example] == "example_of_"


def test_registering_again_changes_nothing(example: str) -> None:
    before = list(PeftType)
    register("example", ExampleConfig, ExampleModel, "example_of_")
    assert list(PeftType) == before


def test_a_name_that_peft_has_is_refused() -> None:
    with pytest.raises(KeyError, match="already"):
        register("lora", ExampleConfig, ExampleModel, "example_of_")
    assert PEFT_TYPE_TO_TUNER_MAPPING["LORA"] is not ExampleModel
