"""Each key of the speed section decides over its part, and the backend and the length of a run over `auto`."""

from typing import Any

import pytest

from ftune.backends.ddp import Ddp
from ftune.backends.fsdp import Fsdp
from ftune.backends.single import Single
from ftune.backends.zero import Zero
from ftune.recipes.runs.plan_time import Time
from ftune.recipes.runs.sft import SHORT_RUN, wanted_of
from ftune.recipes.speed_section import Speed
from ftune.trainers.speed import Wanted


def lasting(seconds: float) -> Time:
    return Time(steps=1, tokens=1.0, hours=seconds / 3600, share=0.4, said_by="assumed", devices=1)


def wanted(backend: Any = None, seconds: float | None = 600.0, on_gpu: bool = True, **asked: Any) -> Wanted:
    time = None if seconds is None else lasting(seconds)
    return wanted_of(Speed(**asked), backend or Single(), time, on_gpu=on_gpu)


def test_all_is_wanted_by_default() -> None:
    assert wanted() == wanted(Ddp()) == wanted(seconds=None) == wanted(seconds=1.0, on_gpu=False) == Wanted()


@pytest.mark.parametrize("key", ["packed_attention", "fused_loss", "folded_lora", "compiled_layers"])
def test_what_is_off_is_not_wanted(key: str) -> None:
    for backend in (Single(), Zero()):
        assert getattr(wanted(backend, **{key: "off"}), key) is False


def test_a_short_run_is_compiled_where_that_is_asked_for() -> None:
    assert wanted(seconds=59.0).compiled_layers == SHORT_RUN
    assert wanted(seconds=61.0).compiled_layers is True
    assert wanted(seconds=1.0, compiled_layers="on").compiled_layers is True


@pytest.mark.parametrize("backend", [Zero(), Fsdp()])
def test_weights_in_parts_are_left_as_they_are(backend: Any) -> None:
    found = wanted(backend, compiled_layers="on")
    assert (found.packed_attention, found.fused_loss) == (True, True)
    assert found.folded_lora == found.compiled_layers == f"the backend '{backend.name}' has the weights in parts"
