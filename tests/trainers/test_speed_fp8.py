"""FP8 is on where it was asked for and near the model's own, or there is no run; what is saved is the plain model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, FalconConfig, GPT2Config, LlamaConfig, Qwen2Config

from ftune.core.errors import ModelError
from ftune.report.events import read_events
from ftune.speed.flat import FlatCollator
from ftune.trainers.speed import Wanted, at_speed
from tests.conftest import Done
from tests.trainers.test_packing_attention import GROUPED, ROWS, SHAPE

pytest.importorskip("torchao")

Run = Callable[..., Done]
Write = Callable[..., Path]

FP8 = Wanted(fp8="tensorwise")


def model_of(config: Any) -> Any:
    torch.manual_seed(0)
    config.pad_token_id = None
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("scales", ["tensorwise", "rowwise"])
@pytest.mark.parametrize("family", [LlamaConfig, Qwen2Config])
def test_it_is_on_says_so_and_leaves_the_model_as_it_was(scales: Any, family: Any) -> None:
    model = model_of(family(**GROUPED))
    batch = {**FlatCollator()([{"input_ids": ROWS[0], "labels": ROWS[0]}]), "use_cache": False}
    before, modules = model(input_ids=batch["input_ids"]).logits, list(model.modules())
    with at_speed(model, ROWS, torch.float32, wanted=Wanted(fp8=scales)) as speed:
        assert (speed.fp8, speed.fp8_products, speed.reasons) == (scales, 14, {})
        assert f"14 products in FP8 ({scales} scales), which changes the result" in speed.words()
        inside = model(**batch).logits
        assert 0 < float((inside - before).norm() / before.norm()) < 0.5
    assert all(one is other for one, other in zip(model.modules(), modules, strict=True))
    assert torch.equal(model(input_ids=batch["input_ids"]).logits, before)
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize(
    ("config", "wanted", "why"),
    [
        (FalconConfig(**SHAPE, alibi=True), FP8, "batches with padding or masks: the model brings its own attention"),
        (
            GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64),
            FP8,
            "no linear layer of its decoder layers has widths that are multiples of 16; use 'speed.fp8: off'",
        ),
    ],
)
def test_a_model_that_cannot_have_it_is_refused(config: Any, wanted: Wanted, why: str) -> None:
    with pytest.raises(ModelError) as raised, at_speed(model_of(config), ROWS, torch.float32, wanted=wanted):
        pass
    assert str(raised.value).startswith("speed.fp8: ")
    assert why in str(raised.value)


def forgetful(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """A product whose gradient turns around."""
    y = nn.functional.linear(x, self.weight)
    return y.detach() * 2 - y


def silent(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """A product whose gradient is lost."""
    return nn.functional.linear(x, self.weight * 0) + nn.functional.linear(x, self.weight).detach()


def failing(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """A product that there is no kernel for."""
    raise RuntimeError("no kernel")


@pytest.mark.parametrize(
    ("broken", "said"), [(forgetful, "cosine -"), (silent, "cosine 0.00"), (failing, "'tensorwise': no kernel")]
)
def test_what_is_not_near_the_model_is_refused(broken: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchao.float8.float8_linear import Float8Linear

    monkeypatch.setattr(Float8Linear, "forward", broken)
    model = model_of(LlamaConfig(**GROUPED))
    with pytest.raises(ModelError, match=said) as raised, at_speed(model, ROWS, torch.float32, wanted=FP8):
        pass
    assert str(raised.value).endswith("; use 'speed.fp8: off', or try 'rowwise'")
    assert not any(isinstance(one, Float8Linear) for one in model.modules())


# -- runs, which a CPU refuses but for these tests --------------------------------------------------------------------


def run_of(recipe: Write, tiny_model: Path, **sections: Any) -> Path:
    model = {"path": str(tiny_model), "dtype": "bf16"}
    return recipe(**{"peft": "full", "model": model, "optim": {"learning_rate": 0.001}, **sections})


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """No device is refused."""
    monkeypatch.setattr("ftune.recipes.runs.sft.check_fp8", lambda asked, place: None)


def kinds(folder: Path) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Dtype and shape of each tensor."""
    found = {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
    assert len(found) >= 20
    return {name: (value.dtype, value.shape) for name, value in found.items()}


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in read_events(run / "events.jsonl") if event["kind"] == "step"]


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("adamw_bf16", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("emulated")
def test_a_run_leaves_what_a_run_without_it_leaves(
    recipe: Write, ftune: Run, tmp_path: Path, tiny_model: Path, optimizer: str
) -> None:
    path = run_of(recipe, tiny_model, data={"train": "rows.jsonl", "validation": 4})
    batch = "batch={micro_batch_size: 2, gradient_accumulation_steps: 2, activation_checkpointing: true}"
    words = [path, batch, f"optim.optimizer={optimizer}"]
    done = ftune("sft", *words, "speed.fp8=tensorwise", "output_dir=runs/fp8")
    assert done.code == 0, done.err
    assert "14 products in FP8 (tensorwise scales), which changes the result" in done.err
    assert ftune("sft", *words, "output_dir=runs/plain").code == 0
    ours, plain = (losses(tmp_path / "runs" / name) for name in ("fp8", "plain"))
    assert ours != plain
    assert ours == pytest.approx(plain, rel=0.05)
    for part in ("model", "checkpoint-4"):
        one, other = (kinds(tmp_path / "runs" / name / part) for name in ("fp8", "plain"))
        assert one == other
    configs = [json.loads((tmp_path / "runs" / name / "model/config.json").read_text()) for name in ("fp8", "plain")]
    assert configs[0] == configs[1]


@pytest.mark.slow
@pytest.mark.usefixtures("emulated")
def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(
    recipe: Write, ftune: Run, tmp_path: Path, tiny_model: Path
) -> None:
    path = run_of(recipe, tiny_model, checkpoint={"every": 3}, speed={"fp8": "rowwise"})
    assert ftune("sft", path, "output_dir=runs/whole").code == 0
    assert ftune("sft", path).code == 0
    run = tmp_path / "runs/tiny"
    for done in ("model", "checkpoint-6"):
        (run / done).rename(tmp_path / done)
    state = json.loads((run / "ftune.json").read_text()) | {"state": "running"}
    (run / "ftune.json").write_text(json.dumps(state))
    resumed = ftune("sft", path, "--resume")
    assert resumed.code == 0, resumed.err
    assert "resumed from step 3" in resumed.err
    one, other = (load_file(folder / "model/model.safetensors") for folder in (run, tmp_path / "runs/whole"))
    assert all(value.equal(other[name]) for name, value in one.items())


def test_a_device_without_it_is_refused_before_the_model_is_loaded(
    recipe: Write, ftune: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftune.recipes.runs.sft.wrapped_model", lambda run: pytest.fail("loaded"))
    done = ftune("sft", run_of(recipe, tiny_model, speed={"fp8": "tensorwise"}))
    assert done.code == 2
    assert "speed.fp8: 'tensorwise' needs a GPU of compute capability 8.9, and this run is on a CPU" in done.err
    assert "use 'speed.fp8: off'" in done.err
