"""AdamW on bf16 weights steps as AdamW does in float64, on average over its rounding, and its runs end as others do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from ftune.report.events import read_events
from ftune.trainers.adamw_bf16 import PIECES, AdamWBf16, scrambled, stochastically_rounded
from tests.conftest import Done

Run = Callable[..., Done]
Write = Callable[..., Path]

NOISE = torch.arange(2**16, dtype=torch.int32)


def optimizer(weight: torch.Tensor, gradient: torch.Tensor, **settings: Any) -> AdamWBf16:
    """Of one parameter, which has its gradient."""
    parameter = torch.nn.Parameter(weight.to(torch.bfloat16))
    parameter.grad = gradient.to(torch.bfloat16)
    return AdamWBf16([parameter], **{"lr": 1e-3, **settings})


def only(made: torch.optim.Optimizer) -> torch.nn.Parameter:
    parameter: torch.nn.Parameter = made.param_groups[0]["params"][0]
    return parameter


# -- rounding ----------------------------------------------------------------------------------------------------------


@given(st.integers(0x00800000, 0x7F7F0000), st.sampled_from([1, -1]))
def test_rounding_keeps_the_mean_exactly_and_gives_neighbours_alone(bits: int, sign: int) -> None:
    """Of each normal number below bf16's largest, over all noise that there is."""
    value = sign * torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    found = stochastically_rounded(value.expand(2**16), NOISE).double()
    assert float(found.mean()) == pytest.approx(float(value), rel=1e-12)
    assert float((found - value.double()).abs().max()) <= abs(float(value)) * 2**-7
    assert len(found.unique()) <= 2


def test_what_bf16_has_stays_as_it_is() -> None:
    held = torch.tensor([0.0, 1.0, -3.140625, float("inf"), -float("inf"), 3.3895313892515355e38])
    for noise in (0, 1, 2**15, 2**16 - 1, -1):
        assert stochastically_rounded(held, torch.full((6,), noise, dtype=torch.int32)).float().equal(held)


def test_nan_stays_nan_whatever_it_carries() -> None:
    odd = torch.tensor([0x7F800001, 0x7FFFFFFF, 0x7FC00000, -1], dtype=torch.int32).view(torch.float32)
    for noise in (0, 1, 2**16 - 1):
        assert stochastically_rounded(odd, torch.full((4,), noise, dtype=torch.int32)).isnan().all()


def test_scrambling_is_that_of_its_source() -> None:
    def reference(bits: int) -> int:
        bits ^= bits >> 16
        bits = bits * 0x7FEB352D % 2**32
        bits ^= bits >> 15
        bits = bits * 0x846CA68B % 2**32
        return bits ^ bits >> 16

    given = [0, 1, 2, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 123_456_789]
    signed = torch.tensor([one - 2**32 if one >= 2**31 else one for one in given], dtype=torch.int32)
    assert [int(one) % 2**32 for one in scrambled(signed)] == [reference(one) for one in given]


# -- steps -------------------------------------------------------------------------------------------------------------

COPIES, VALUES = 4096, 40


def in_float64(weight: Any, mean: Any, square: Any, gradient: Any, step: int, settings: dict[str, Any]) -> Any:
    """Algorithm 2 of arXiv:1711.05101."""
    (beta1, beta2), rate = settings["betas"], settings["lr"]
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient**2
    corrected_mean, corrected_square = mean / (1 - beta1**step), square / (1 - beta2**step)
    weight = weight - rate * (
        corrected_mean / (corrected_square**0.5 + settings["eps"]) + settings["weight_decay"] * weight
    )
    return weight, mean, square


@pytest.mark.parametrize("rate", [1e-4, 3e-3])
def test_a_step_is_that_of_float64_in_the_mean_over_many_roundings(rate: float) -> None:
    settings = {"lr": rate, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    torch.manual_seed(0)
    weight, first, second = torch.randn(3, VALUES).bfloat16()
    made = optimizer(weight.repeat(COPIES, 1), first.repeat(COPIES, 1), seed=5, **settings)
    made.step()
    state = made.state[only(made)]
    state["exp_avg"][:], state["exp_avg_sq"][:] = first * 0.1, first**2 * 0.05  # the same for all copies again
    before = [one[0].double() for one in (only(made).data.copy_(weight), state["exp_avg"], state["exp_avg_sq"])]
    only(made).grad = second.repeat(COPIES, 1)
    made.step()
    expected = in_float64(*before, second.double(), 2, settings)
    for found, exact in zip((only(made), state["exp_avg"], state["exp_avg_sq"]), expected, strict=True):
        copies = found.detach().double()
        assert copies.dtype != found.dtype
        off, error = (copies.mean(0) - exact).abs(), copies.std(0) / COPIES**0.5
        assert bool((off <= 4.5 * error + 1e-6 * exact.abs()).all())  # fp32 has made the step
        assert bool((copies.std(0) > 0).any())


def test_without_rounding_the_steps_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers so coarse that nothing of them is lost, and a piece boundary within the parameter."""
    monkeypatch.setitem(PIECES, "cpu", 256)
    torch.manual_seed(0)
    for shape in [(5, 128), (3, 7), (1,), (300,)]:
        weight, gradient = torch.randn(2, *shape).bfloat16()
        settings = {"lr": 0.25, "betas": (0.5, 0.75), "weight_decay": 0.5}
        made = optimizer(weight, gradient, **settings)
        other = torch.nn.Parameter(weight.float())
        other.grad = gradient.float()
        plain = torch.optim.AdamW([other], **settings)  # type: ignore[arg-type]
        made.step()
        plain.step()
        assert torch.allclose(only(made).float(), other, rtol=2**-7, atol=0)
        assert torch.allclose(
            made.state[only(made)]["exp_avg_sq"].float(), plain.state[other]["exp_avg_sq"], rtol=2**-7
        )


def test_small_changes_arrive_that_the_nearest_number_loses() -> None:
    """A ten-thousandth of the weight a step, of which bf16 has no number within 39."""
    ones = torch.ones(64, 128)
    made, plain = optimizer(ones, ones, lr=1e-4), torch.nn.Parameter(ones.bfloat16())
    plain.grad = ones.bfloat16()
    nearest = torch.optim.AdamW([plain], lr=1e-4, weight_decay=0.0)
    for _ in range(100):
        made.step()
        nearest.step()
    assert bool((plain == 1).all())
    assert float(only(made).detach().float().mean()) == pytest.approx(1 - 100 * 1e-4, abs=3e-4)


def test_the_mean_of_squares_follows_where_the_nearest_number_stands_still() -> None:
    ones = torch.ones(64, 128)
    made = optimizer(ones, ones, lr=0.0)
    made.step()
    state = made.state[only(made)]
    state["exp_avg_sq"].fill_(1.0)
    only(made).grad = torch.full_like(only(made), 0.5)
    for _ in range(200):
        made.step()
    assert bool((torch.tensor(1.0).bfloat16() * 0.999 + 0.001 * 0.25 == 1).all())
    exact = 0.25 + 0.75 * 0.999**200
    assert float(state["exp_avg_sq"].float().mean()) == pytest.approx(exact, rel=2e-3)


def test_replicas_round_alike_whatever_else_draws_random_numbers() -> None:
    """Processes of DDP drop other numbers, and must not drift apart."""
    torch.manual_seed(0)
    weight, gradient = torch.randn(2, 300, 128)
    first, second, third = (optimizer(weight, gradient, seed=seed) for seed in (3, 3, 4))
    for seed, made in enumerate((first, second, third)):
        torch.manual_seed(seed)
        for _ in range(3):
            torch.rand(seed + 1)
            made.step()
    assert torch.equal(only(first), only(second))
    assert not torch.equal(only(first), only(third))


def test_parameters_and_pieces_round_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIECES, "cpu", 1024)
    equal = [torch.nn.Parameter(torch.ones(16, 128).bfloat16()) for _ in range(2)]
    for parameter in equal:
        parameter.grad = torch.ones_like(parameter)
    groups = [{"params": equal[:1]}, {"params": equal[1:]}]
    AdamWBf16(groups, 1e-3).step()
    pieces = [piece for parameter in equal for piece in parameter.detach().flatten().split(1024)]
    assert len({tuple(piece.tolist()) for piece in pieces}) == len(pieces)


def test_other_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        AdamWBf16([torch.nn.Parameter(torch.ones(2))], 1e-3)


# -- runs --------------------------------------------------------------------------------------------------------------

BF16: dict[str, Any] = {
    "peft": "full",
    "optim": {"optimizer": "adamw_bf16", "learning_rate": 0.002, "weight_decay": 0.01},
    "checkpoint": {"every": 3},
}


def recipe_of(recipe: Write, tiny_model: Path, **sections: Any) -> Path:
    return recipe(**{**BF16, "model": {"path": str(tiny_model), "dtype": "bf16"}, **sections})


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in read_events(run / "events.jsonl") if event["kind"] == "step"]


@pytest.mark.slow
def test_the_loss_falls_as_that_of_weights_in_fp32(recipe: Write, ftune: Run, tmp_path: Path, tiny_model: Path) -> None:
    path = recipe_of(recipe, tiny_model, schedule={"max_steps": 40}, checkpoint={"every": "never"})
    assert ftune("sft", path, "output_dir=runs/bf16").code == 0
    assert ftune("sft", path, "output_dir=runs/fp32", "optim.optimizer=adamw").code == 0
    assert ftune("sft", path, "output_dir=runs/still", "optim.learning_rate=1e-12").code == 0
    ours, wide, still = (sum(losses(tmp_path / "runs" / name)[-6:]) / 6 for name in ("bf16", "fp32", "still"))
    assert wide < 0.8 * still
    assert ours == pytest.approx(wide, rel=0.05)


@pytest.mark.parametrize("command", ["sft", pytest.param("rm", marks=pytest.mark.slow)])
def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(
    command: str, recipe: Write, ftune: Run, tmp_path: Path, tiny_model: Path
) -> None:
    pairs = [{"prompt": f"{at}:", "chosen": "the cat", "rejected": f"birds {at}"} for at in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    more = {"type": "rm", "data": {"train": "pairs.jsonl", "max_length": 128}} if command == "rm" else {}
    path = recipe_of(recipe, tiny_model, **more)
    assert ftune(command, path, "output_dir=runs/whole").code == 0
    assert ftune(command, path).code == 0
    run = tmp_path / "runs/tiny"
    for done in ("model", "checkpoint-6"):
        (run / done).rename(tmp_path / done)
    state = json.loads((run / "ftune.json").read_text()) | {"state": "running"}
    (run / "ftune.json").write_text(json.dumps(state))
    resumed = ftune(command, path, "--resume")
    assert resumed.code == 0, resumed.err
    assert "resumed from step 3" in resumed.err
    one, other = (load_file(folder / "model/model.safetensors") for folder in (run, tmp_path / "runs/whole"))
    assert all(value.dtype == torch.bfloat16 and value.equal(other[name]) for name, value in one.items())
    for folder in (run / "checkpoint-3", run / "model"):
        assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_step_with_found_inf_changes_nothing_and_does_not_count() -> None:
    runs = {}
    for broken in ((0.0, 0.0), (0.0, 1.0, 0.0)):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(8, 128).bfloat16())
        optimizer = AdamWBf16([weight], 0.1)
        for flag in broken:
            weight.grad = torch.full_like(weight, torch.nan if flag else 1.0)
            optimizer.found_inf = torch.full((), flag)
            optimizer.step()
            if flag:
                optimizer.undo_count()
        runs[len(broken)] = weight.detach(), optimizer.state[weight]
    (weights, state), (others, other) = runs.values()
    assert torch.equal(weights, others)
    assert state["step"] == other["step"] == 2
    assert all(torch.equal(state[name], other[name]) for name in ("exp_avg", "exp_avg_sq"))
