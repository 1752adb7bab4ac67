"""Each key of the speed section decides over its part, and the backend and the length of a run over `auto`."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftune.backends.ddp import Ddp
from ftune.backends.fsdp import Fsdp
from ftune.backends.single import Single
from ftune.backends.zero import Zero
from ftune.core.errors import LaunchError, RecipeError
from ftune.recipes.load import load_recipe
from ftune.recipes.runs.fp8 import check_fp8
from ftune.recipes.runs.plan_time import Time
from ftune.recipes.runs.speed import SHORT_RUN, wanted_of
from ftune.recipes.speed_section import SftSpeed
from ftune.trainers.speed import Wanted


def lasting(seconds: float) -> Time:
    return Time(steps=1, tokens=1.0, hours=seconds / 3600, share=0.4, said_by="assumed", devices=1)


def wanted(backend: Any = None, seconds: float | None = 600.0, on_gpu: bool = True, **asked: Any) -> Wanted:
    time = None if seconds is None else lasting(seconds)
    return wanted_of(SftSpeed(**asked), backend or Single(), time, on_gpu=on_gpu)


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


# -- fp8, which is asked for -------------------------------------------------------------------------------------------

Write = Callable[..., Path]


def test_fp8_is_wanted_where_it_is_asked_for_and_compiles_short_runs_too() -> None:
    assert wanted(fp8="tensorwise") == Wanted(fp8="tensorwise")
    assert wanted(fp8="rowwise", seconds=1.0).compiled_layers is True
    assert wanted().fp8 is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["peft=lora"], "speed.fp8: 'rowwise' is for weights that train themselves, and 'lora' trains something else"),
        (
            ["peft={type: freeze, last_layers: 1}"],
            "'freeze' trains something else; use 'peft: full', or 'off'",
        ),
        (["model.quantization=nf4"], "model.quantization: training the model itself cannot train nf4 weights"),
        (["model.dtype=fp16"], "speed.fp8: 'rowwise' gives its results in bf16; set 'model.dtype: bf16', or use 'off'"),
        (["backend={type: single, device: cpu}"], "speed.fp8: 'rowwise' needs a GPU, and 'backend.device' is 'cpu'"),
        (["backend=zero"], "speed.fp8: 'rowwise' with 'backend: zero': a process has the weights in parts; use"),
        (["backend=fsdp"], "with 'backend: fsdp': a process has the weights in parts; use 'backend: ddp', or"),
        (["speed.compiled_layers=off"], "fast in compiled layers alone, and these are for flat batches with a loss of"),
        (["speed.fused_loss=off"], "remove 'fused_loss: off', or set 'fp8: off'"),
        (["speed.packed_attention=off"], "remove 'packed_attention: off', or set 'fp8: off'"),
    ],
)
def test_fp8_is_refused_from_the_recipe(recipe: Write, overrides: list[str], said: str) -> None:
    path = recipe(peft="full", speed={"fp8": "rowwise"})
    with pytest.raises(RecipeError) as raised:
        load_recipe("sft", path, overrides)
    assert said in str(raised.value)


def test_fp8_goes_with_whole_weights_on_one_gpu_and_with_ddp(recipe: Write) -> None:
    path = recipe(peft="full", speed={"fp8": "rowwise"})
    for words in (["backend=ddp"], ["backend=single"], ["optim.optimizer=adamw_bf16"], ["model.dtype=bf16"]):
        load_recipe("sft", path, words)
    load_recipe("sft", path, ["speed={fp8: off, compiled_layers: off}"])


def test_without_torchao_the_extra_is_named(recipe: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe(peft="full", speed={"fp8": "tensorwise"})
    monkeypatch.setattr("ftune.recipes.speed_section.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"speed.fp8: 'tensorwise' needs torchao; pip install 'ftune\[torchao\]' or"):
        load_recipe("sft", path)
    load_recipe("sft", path, ["speed.fp8=off"])


@pytest.mark.parametrize(
    ("capability", "dtype", "said"),
    [
        ((9, 0), "bf16", ""),
        ((8, 9), "bf16", ""),
        ((12, 0), "bf16", ""),
        ((8, 6), "bf16", "needs a GPU of compute capability 8.9, and a card has 8.6; use 'speed.fp8: off'"),
        ((9, 0), "fp16", "gives its results in bf16, and products are in fp16; use 'speed.fp8: off'"),
        (None, "bf16", "needs a GPU of compute capability 8.9, and this run is on a CPU; use 'speed.fp8: off'"),
    ],
)
def test_devices_without_it_are_refused(
    capability: tuple[int, int] | None, dtype: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a card")
    place: Any = SimpleNamespace(on_gpu=capability is not None, dtype=dtype, device="cuda:0")
    check_fp8("off", place)
    if said:
        with pytest.raises(LaunchError) as raised:
            check_fp8("tensorwise", place)
        assert str(raised.value) == f"speed.fp8: 'tensorwise' {said}"
    else:
        check_fp8("tensorwise", place)
