"""The loop: its schedule, its guards, what it keeps, what it says, and that a stop changes nothing."""

import json
import math
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftune.core.checkpoints import facts_of, newest_valid
from ftune.core.errors import DivergedError, RewardError
from ftune.ppo.actor_critic import frozen_parameters
from ftune.ppo.guards import KEPT_EVERY
from ftune.ppo.loop import _seed
from ftune.ppo.prompts import drawn
from ftune.ppo.rollout.base import Policy, Sampling
from ftune.ppo.rollout.engines.padded import PaddedEngine
from ftune.ppo.schedule import learning_rate_factor
from ftune.rewards.base import Sample
from tests.ppo.looping import Run, prompts, share
from tests.ppo.models import lora

MEASURED = {"time", "seconds", "tokens_per_s", "rollout_tokens_per_s", "memory_gib"}
"""Facts of an event that the machine decides."""


def told(run: Run, *kinds: str) -> list[dict[str, Any]]:
    events = [event for kind in kinds for event in run.events(kind)]
    return [{name: value for name, value in event.items() if name not in MEASURED} for event in events]


# -- the schedule ------------------------------------------------------------------------------------------------------


def test_learning_rate_by_hand() -> None:
    rates = [learning_rate_factor(iteration, 6, 2, "linear") for iteration in range(6)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4])
    rates = [learning_rate_factor(iteration, 4, 0, "cosine") for iteration in range(4)]
    assert rates == pytest.approx([1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2])
    assert [learning_rate_factor(iteration, 3, 1, "constant") for iteration in range(3)] == [0.5, 1, 1]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3, 9])
def test_the_learning_rate_never_gets_to_zero_nor_above_its_peak(schedule: str, warmup: int) -> None:
    rates = [learning_rate_factor(iteration, 9, warmup, schedule) for iteration in range(9)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_the_learning_rate_of_each_iteration_is_that_of_the_formula(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", plan={"schedule": "linear", "warmup_iterations": 1}, algorithm={"epochs": 2})
    run.go()
    wanted = [1e-2 * learning_rate_factor(iteration, 4, 1, "linear") for iteration in range(4)]
    assert [step["learning_rate"] for step in run.events("step")] == pytest.approx(wanted)
    assert [step["updates"] for step in run.events("step")] == [4] * 4


# -- prompts and draws -------------------------------------------------------------------------------------------------


def test_every_prompt_comes_once_a_pass_in_orders_that_the_seed_decides() -> None:
    rows = prompts(10)
    passes = [prompt.origin for iteration in range(5) for prompt in drawn(rows, iteration, 4, seed=1)]
    assert sorted(passes[:10]) == sorted(passes[10:]) == sorted(prompt.origin for prompt in rows)
    assert passes[:10] != passes[10:]
    assert passes == [prompt.origin for iteration in range(5) for prompt in drawn(rows, iteration, 4, seed=1)]
    assert passes != [prompt.origin for iteration in range(5) for prompt in drawn(rows, iteration, 4, seed=2)]


def test_ranks_draw_differently_from_equal_weights() -> None:
    engine = PaddedEngine(Policy(lora().eval(), pad_id=2, stop_ids=(2,)), 8)
    same_prompts = [[5, 6, 7]] * 4
    draws = {
        (number, rank): [one.token_ids for one in engine.generate(same_prompts, Sampling(8), _seed(0, 2, number, rank))]
        for number in range(2)
        for rank in range(2)
    }
    assert len({json.dumps(tokens) for tokens in draws.values()}) == 4
    assert draws[0, 1] == [one.token_ids for one in engine.generate(same_prompts, Sampling(8), _seed(0, 2, 0, 1))]


# -- the price of KL ---------------------------------------------------------------------------------------------------


def test_the_coefficient_follows_the_kl(tmp_path: Path) -> None:
    adaptive = {"controller": "adaptive", "coefficient": 0.1, "target": 0.5, "horizon": 100.0}
    run = Run(tmp_path / "run", plan={"iterations": 5}, kl=adaptive)
    run.go()
    steps = run.events("step")
    for before, after in pairwise(steps):
        error = min(max(before["kl"] / 0.5 - 1, -0.2), 0.2)
        assert after["kl_coefficient"] == pytest.approx(before["kl_coefficient"] * (1 + error * 16 / 100), rel=1e-12)
    assert steps[1]["kl_coefficient"] < 0.1  # the first KL is 0
    assert len({step["kl_coefficient"] for step in steps}) > 2


def test_a_fixed_coefficient_stays(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", kl={"coefficient": 0.07})
    run.go()
    assert {step["kl_coefficient"] for step in run.events("step")} == {0.07}


# -- guards ------------------------------------------------------------------------------------------------------------


def test_too_much_kl_ends_the_run_and_the_policy_that_was_near_enough_is_the_result(tmp_path: Path) -> None:
    """The whole of A9: no penalty, a high rate; without held-out prompts the last measured policy within the limit."""
    run = Run(
        tmp_path / "run", plan={"iterations": 30, "checkpoint_every": 1}, kl={"coefficient": 0.0},
        guard={"max_kl": 2.0, "patience": 2}, learning_rate=2e-2,
    )  # fmt: skip
    outcome = run.go()
    kls = [step["kl"] for step in run.events("step")]
    assert outcome.ended_by.startswith("KL ")
    assert "guard.max_kl 2" in outcome.ended_by
    assert outcome.iteration == len(kls) < 30
    assert [kl > 2 for kl in kls[-2:]] == [True, True]
    assert not any(one > 2 and two > 2 for one, two in pairwise(kls[:-1]))
    assert outcome.kept_iteration is not None
    assert kls[outcome.kept_iteration] <= 2.0  # the rollouts of an iteration are those of the policy before it
    kept = load_file(run.folder / "best" / "trainable.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in run.actor.trainable_state().items())
    last = run.folder / f"checkpoint-{outcome.iteration}"
    assert facts_of(last)["ended_by"] == outcome.ended_by
    assert "ended_by" not in facts_of(run.folder / f"checkpoint-{outcome.iteration - 1}")
    again = run.go(resume=last)  # as after a kill before the result
    assert again == outcome
    assert all(torch.equal(value, kept[name]) for name, value in run.actor.trainable_state().items())


def test_without_checkpoints_a_policy_that_was_near_enough_is_kept_too(tmp_path: Path) -> None:
    run = Run(
        tmp_path / "run", plan={"iterations": 30, "checkpoint_every": None}, kl={"coefficient": 0.0},
        guard={"max_kl": 4.0, "patience": 1}, learning_rate=2e-2,
    )  # fmt: skip
    outcome = run.go()
    kls = [step["kl"] for step in run.events("step")]
    assert outcome.ended_by.startswith("KL ")
    assert outcome.kept_iteration == (len(kls) - 2) // KEPT_EVERY * KEPT_EVERY
    kept = load_file(run.folder / "best" / "trainable.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in run.actor.trainable_state().items())


def test_the_best_policy_on_held_out_prompts_is_kept(tmp_path: Path) -> None:
    run = Run(
        tmp_path / "run", plan={"iterations": 12, "eval_every": 2, "samples_every": None}, held_out=6,
        kl={"coefficient": 0.0}, guard={"max_kl": 2.5, "patience": 1}, learning_rate=2e-2,
    )  # fmt: skip
    outcome = run.go()
    looks = run.events("eval")
    allowed = [look for look in looks if look["kl"] <= 2.5]
    assert len(allowed) < len(looks)
    best = max(allowed, key=lambda look: look["score"])
    assert outcome.kept_iteration == best["step"] == run.state.best_iteration
    assert [look["step"] for look in looks if look["best"]][-1] == best["step"]
    assert {sample["when"] for sample in run.samples()} == {"held-out"}


def test_a_best_policy_that_got_lost_is_told_and_another_one_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = {"iterations": 1, "eval_every": 1}
    run = Run(tmp_path / "run", plan=plan, held_out=2, learning_rate=1e-9, batch_size=8, score={"bias": 1.0})
    run.go()
    assert run.state.best_iteration == 0
    (run.folder / "best" / "trainable.safetensors").write_bytes(b"")
    run.plan = {**plan, "iterations": 2}
    outcome = run.go(resume=run.folder / "checkpoint-1")
    assert (outcome.kept_iteration, run.state.best_iteration) == (None, 2)
    said = " ".join(capsys.readouterr().err.split())
    assert "the policy of iteration 0 that was the best one is lost (best/ trainable.safetensors has 0 bytes" in said
    load_file(run.folder / "best" / "trainable.safetensors")


def test_without_keep_best_the_last_policy_is_the_result(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", plan={"eval_every": 2}, held_out=2, guard={"keep_best": False})
    assert run.go().kept_iteration is None
    assert not (run.folder / "best").exists()


def test_too_little_entropy_ends_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", plan={"iterations": 9}, guard={"min_entropy": 10.0, "patience": 3})
    outcome = run.go()
    assert outcome.iteration == 3
    assert "guard.min_entropy 10" in outcome.ended_by


def test_the_target_ends_the_updates_of_an_iteration(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", guard={"target_kl": 1e-4}, algorithm={"epochs": 4}, learning_rate=2e-2)
    run.go()
    assert all(step["stopped_early"] and step["updates"] < 8 for step in run.events("step"))


def test_updates_that_are_skipped_again_and_again_end_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", plan={"iterations": 9}, algorithm={"max_ratio": 0.5})
    with pytest.raises(DivergedError, match="no update could be taken in 3 iterations"):
        run.go()
    assert [event["updates"] for event in run.events("skipped")] == [4] * 3


def test_equal_scores_are_noticed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run", reward=lambda samples: [0.3] * len(samples), plan={"iterations": 5})
    run.go()
    assert capsys.readouterr().err.count("has the same score") == 1
    assert {step["score_std"] for step in run.events("step")} == {0.0}


def test_rollouts_without_any_score_train_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path / "run", reward=lambda samples: [None] * len(samples), plan={"iterations": 3})
    run.go()
    said = capsys.readouterr().err
    assert "no completion has a score" in said
    assert "has the same score" not in said
    assert [step["updates"] for step in run.events("step")] == [0, 0, 0]
    assert all("score" not in step for step in run.events("step"))


def test_value_warm_up_leaves_the_policy_where_it_was(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", plan={"iterations": 4, "value_warmup_iterations": 2}, kl={"coefficient": 0.0})
    run.go()
    assert [step["kl"] != 0 for step in run.events("step")] == [False, False, False, True]  # measured before updates


# -- nothing but the adapter changes -----------------------------------------------------------------------------------


def test_base_and_reference_stay_as_they_were(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", plan={"iterations": 1})
    run.go()
    before = {name: value.clone() for name, value in frozen_parameters(run.actor)}
    again = Run(tmp_path / "again", plan={"iterations": 4})
    again.go()
    assert before
    assert all(torch.equal(value, before[name]) for name, value in frozen_parameters(again.actor))


# -- stop and resume ---------------------------------------------------------------------------------------------------

WHOLE: dict[str, Any] = {
    "plan": {"iterations": 6, "eval_every": 2, "samples_every": 1, "schedule": "linear"},
    "kl": {"controller": "adaptive", "coefficient": 0.1, "target": 1.0, "horizon": 50.0},
    "score": {"normalize": "zscore", "missing_eos": "subtract"},
    "guard": {"target_kl": 0.05},
    "held_out": 3,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing stopped."""
    run = Run(tmp_path_factory.mktemp("whole") / "run", **WHOLE)
    run.go()
    return run


@pytest.mark.parametrize("call", [3, 4], ids=["before an evaluation was due", "in an evaluation"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, whole: Run, call: int) -> None:
    run = Run(tmp_path / "run", **WHOLE)
    run.reward = run.stopping_at(call)  # the first call is the evaluation before training
    outcome = run.go()
    assert (outcome.stopped_by, outcome.iteration, outcome.kept_iteration) == ("SIGTERM", 2, None)
    run.reward = share
    assert run.go(resume=run.folder / "checkpoint-2").stopped_by == ""
    assert told(run, "step", "eval") == told(whole, "step", "eval")
    assert (run.folder / "samples.jsonl").read_bytes() == (whole.folder / "samples.jsonl").read_bytes()
    assert run.state == whole.state
    assert run.state.moments["count"] == 6 * 16
    wanted = whole.actor.trainable_state()
    assert all(torch.equal(value, wanted[name]) for name, value in run.actor.trainable_state().items())


def test_a_signal_in_the_last_iteration_changes_nothing(tmp_path: Path, whole: Run) -> None:
    run = Run(tmp_path / "run", **WHOLE)
    run.reward = run.stopping_at(9)  # three evaluations and six rounds come before the last evaluation
    outcome = run.go()
    assert run.stop.received == signal.SIGTERM
    assert (outcome.stopped_by, outcome.iteration) == ("", 6)
    assert told(run, "eval") == told(whole, "eval")


@pytest.mark.parametrize(
    ("call", "iteration", "setting"),
    [
        (2, 0, {}),  # after the evaluation before training: it is not made again
        (4, 2, {}),
        (
            5,
            3,
            {
                "plan": {"iterations": 6, "samples_every": 1},
                "guard": {"max_kl": 0.3, "patience": 2},
                "learning_rate": 3e-2,
            },
        ),
    ],
    ids=["in the first iteration", "in the last evaluation", "in the last evaluation, which a guard made"],
)
def test_a_reward_that_fails_costs_no_evaluation_and_doubles_none(
    tmp_path: Path, call: int, iteration: int, setting: dict[str, Any]
) -> None:
    calls = 0

    def failing(samples: Sequence[Sample]) -> list[float | None]:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RewardError("no")
        return share(samples)

    setting = {"held_out": 3, "batch_size": 8, "plan": {"iterations": 2, "samples_every": 1}, **setting}
    unbroken, run = Run(tmp_path / "unbroken", **setting), Run(tmp_path / "run", reward=failing, **setting)
    wanted = unbroken.go()
    with pytest.raises(RewardError):
        run.go()
    assert newest_valid(run.folder).step == iteration
    assert run.go(resume=run.folder / f"checkpoint-{iteration}") == wanted
    assert told(run, "step", "eval") == told(unbroken, "step", "eval")
    assert run.samples() == unbroken.samples()
    assert run.state == unbroken.state
    if iteration:  # so that a run which is lengthened knows of it
        assert json.loads((run.folder / f"checkpoint-{iteration}/state.json").read_text())["evaluated"] == iteration


def test_a_reward_that_fails_loses_no_iteration(tmp_path: Path, whole: Run) -> None:
    calls = 0

    def failing(samples: Sequence[Sample]) -> list[float | None]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise RewardError(f"{samples[0].origin}: no")
        return share(samples)

    run = Run(tmp_path / "run", reward=failing, **WHOLE)
    with pytest.raises(RewardError, match=r"reward 'share': rows\.jsonl:\d+: no"):
        run.go()
    assert (run.folder / "checkpoint-3").is_dir()
    run.reward = share
    run.go(resume=run.folder / "checkpoint-3")
    assert told(run, "step", "eval") == told(whole, "step", "eval")
