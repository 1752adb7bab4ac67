"""The update: what it steps on, when it does not step, and that neither micro-batches nor ranks change it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from ftune.launch.place import free_port
from ftune.ppo.actor_critic import ActorCritic
from ftune.ppo.build import build
from ftune.ppo.experience import Experience
from ftune.ppo.settings import Algorithm
from ftune.ppo.update import Learner, Ptx, Updated, update
from tests.pair import run_pair
from tests.ppo.learning import Recording, judged, learned_from, learner, text_batch
from tests.ppo.models import lora, sequences, stir
from tests.ppo.update_ranks import off, run


@pytest.fixture
def actor() -> ActorCritic:
    made = build(lora())
    stir(made)
    return made


def updated(learning: Learner, found: Experience, *, value_only: bool = False, **_: Any) -> Updated:
    return update(learning, found, seed=[0, 0], first_step=0, value_only=value_only)


def means(done: Updated) -> dict[str, float]:
    return done.averages.reduced(lambda tensor: tensor)


def largest_gap(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


# -- the first minibatch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["trunk", "adapter"])
def test_the_first_minibatch_meets_the_policy_that_made_the_rollouts(value: Any) -> None:
    made = build(lora(), value=value)
    stir(made)
    done = updated(learner(made, micro_batch_size=2), learned_from(judged(made)))
    assert done.first_ratio_gap < 1e-5
    found = means(done)
    assert found["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert found["clip_fraction"] == 0
    assert found["approx_kl"] == pytest.approx(0, abs=1e-10)


def test_a_policy_that_has_moved_shows_in_the_gap_of_the_first_minibatch_only(actor: ActorCritic) -> None:
    found = learned_from(judged(actor))
    done = updated(learner(actor, Recording(actor, 0.5), epochs=3), found)
    assert done.first_ratio_gap < 1e-5 < means(done)["approx_kl"]
    assert updated(learner(actor), found).first_ratio_gap > 0.01


# -- micro-batches, minibatches, ranks ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone() -> tuple[Updated, Recording]:
    """One process, a minibatch in one piece."""
    return run(Accelerator(cpu=True), micro_batch_size=8)


def same_as(alone: tuple[Updated, Recording], gradients: list[dict[str, torch.Tensor]]) -> bool:
    wanted = alone[1].seen
    assert len(gradients) == len(wanted) == 2
    assert max(float(value.abs().max()) for value in wanted[1].values()) > 0.01
    return max(largest_gap(one, two) for one, two in zip(gradients, wanted, strict=True)) < 1e-6


@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_change_nothing(alone: tuple[Updated, Recording], size: int) -> None:
    done, recording = run(Accelerator(cpu=True), micro_batch_size=size)
    assert same_as(alone, recording.seen)
    for name, mean in means(done).items():
        assert mean == pytest.approx(means(alone[0])[name], abs=1e-5), name


def test_tokens_weigh_the_same_in_long_and_in_short_responses(actor: ActorCritic) -> None:
    """Not the mean of means: one token of loss 1 beside three of loss 0 is a loss of 1/4."""
    batch = sequences(4).rows(torch.tensor([0, 2]))
    assert batch.lengths_B.tolist() == [1, 3]
    found = learned_from(judged(actor, batch), whiten_advantages=False)
    found.advantages_BT.copy_(torch.tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    each = learner(actor, minibatch_size=8, micro_batch_size=1)
    assert means(updated(each, found))["policy_loss"] == pytest.approx(0.25, abs=1e-6)
    whole = learner(actor, minibatch_size=8, micro_batch_size=8)
    updated(whole, found)
    assert largest_gap(each.optimizer.seen[0], whole.optimizer.seen[0]) < 1e-5  # type: ignore[attr-defined]


def test_every_rollout_is_in_one_minibatch_of_each_epoch_in_orders_that_differ(actor: ActorCritic) -> None:
    seen: list[tuple[int, ...]] = []

    def watched(mode: str, ids: torch.Tensor, *rest: torch.Tensor) -> Any:
        seen.append(tuple(ids[:, :3].sum(1).tolist()))
        return actor(mode, ids, *rest)

    found = learned_from(judged(actor))
    done = updated(learner(actor, wrapped=watched, epochs=2, minibatch_size=2, micro_batch_size=1), found)
    assert done.steps == 8
    first, second = seen[:8], seen[8:]
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 8
    assert first != second


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what they found."""
    place = tmp_path_factory.mktemp("ranks")
    port = str(free_port())
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    run_pair("tests.ppo.update_ranks", place, OMP_NUM_THREADS="1", **variables)
    return place


def test_two_ranks_take_the_steps_of_one(ranks: Path, alone: tuple[Updated, Recording]) -> None:
    for rank in range(2):
        found = torch.load(ranks / f"rank_{rank}.pt", weights_only=True)
        assert same_as(alone, found["gradients"])
        assert largest_gap(found["parameters"], alone[1].actor.trainable_state()) < 1e-6
        for name in ("policy_loss", "value_loss", "clip_fraction", "approx_kl", "ptx_loss", "grad_norm"):
            assert found["means"][name] == pytest.approx(means(alone[0])[name], abs=1e-5), name


def test_one_rank_over_the_target_stops_both(ranks: Path) -> None:
    facts = [json.loads((ranks / f"rank_{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert [one["stopped"] for one in facts] == [[True, 1]] * 2


def test_one_rank_with_wild_ratios_skips_the_step_of_both(ranks: Path) -> None:
    facts = [json.loads((ranks / f"rank_{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert [one["skipped"] for one in facts] == [[0, 2]] * 2


# -- steps that are not taken ------------------------------------------------------------------------------------------


def test_a_policy_that_moved_past_the_target_takes_no_further_step(actor: ActorCritic) -> None:
    found = learned_from(judged(actor))
    calm = learner(actor, Recording(actor, 1e-4), target_kl=0.1, epochs=4, minibatch_size=2, micro_batch_size=2)
    assert (updated(calm, found).steps, updated(calm, found).stopped_early) == (16, False)
    done = updated(learner(actor, target_kl=0.1, epochs=4), off(found, 2.0))
    assert (done.steps, done.stopped_early) == (1, True)


def test_a_mean_ratio_above_the_limit_skips_the_step(actor: ActorCritic) -> None:
    found = off(learned_from(judged(actor)), 2.0)  # a ratio of e^2
    recording = Recording(actor, 1.0)
    before = actor.trainable_state()
    done = updated(learner(actor, recording, max_ratio=7.3, epochs=2), found)
    assert (done.steps, done.skipped, recording.seen) == (0, 2, [])
    assert "mean ratio 7.39" in done.why
    assert largest_gap(before, actor.trainable_state()) == 0
    assert updated(learner(actor, max_ratio=7.5), found).steps == 1


def test_what_is_not_finite_is_not_stepped_on(actor: ActorCritic) -> None:
    found = learned_from(judged(actor))
    found.advantages_BT[0, 0] = float("inf")
    recording = Recording(actor, 1.0)
    before = actor.trainable_state()
    done = updated(learner(actor, recording), found)
    assert (done.steps, done.skipped, recording.seen) == (0, 1, [])
    assert "loss" in done.why
    assert largest_gap(before, actor.trainable_state()) == 0
    assert all(value.grad is None for value in actor.trainable_parameters())


def test_rollouts_without_a_score_make_no_step(actor: ActorCritic) -> None:
    found = learned_from(judged(actor))
    found.mask_BT.zero_()
    done = updated(learner(actor), found)
    assert (done.steps, done.skipped, means(done)) == (0, 0, {})


# -- what trains -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["trunk", "adapter"])
def test_while_only_the_value_trains_the_policy_and_its_optimiser_stay(value: Any) -> None:
    made = build(lora(), value=value)
    stir(made)
    found = learned_from(judged(made))
    groups = made.parameter_groups()
    before = [parameter.detach().clone() for parameter in groups["policy"]]
    optimizer = torch.optim.AdamW(made.trainable_parameters(), lr=0.1, weight_decay=0.1)
    text = Ptx(lambda step: text_batch(step, 2), 1.0)
    updated(learner(made, optimizer, epochs=2, ptx=text), found, value_only=True)
    assert all(torch.equal(one, two) for one, two in zip(groups["policy"], before, strict=True))
    assert not any(parameter in optimizer.state for parameter in groups["policy"])
    assert all(parameter in optimizer.state for parameter in groups["value"])


def test_ordinary_text_adds_its_own_gradient(actor: ActorCritic) -> None:
    found = learned_from(judged(actor))
    plain, both = learner(actor), learner(actor, ptx=Ptx(lambda step: text_batch(step, 2), 0.7))
    update(plain, found, seed=[0, 0], first_step=0, value_only=False)
    done = update(both, found, seed=[0, 0], first_step=3, value_only=False)
    ids = text_batch(3, 2)[0]
    loss = actor.model(input_ids=ids, labels=ids).loss  # the mean over tokens, as transformers takes it
    loss.backward()
    for name, parameter in actor.trainable().items():
        added = both.optimizer.seen[0][name] - plain.optimizer.seen[0][name]  # type: ignore[attr-defined]
        wanted = torch.zeros_like(parameter) if parameter.grad is None else 0.7 * parameter.grad
        assert torch.allclose(added, wanted, atol=1e-6), name
    assert means(done)["ptx_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)


def test_gradients_are_cut_to_the_norm(actor: ActorCritic) -> None:
    found = learned_from(judged(actor))
    whole, cut = learner(actor), learner(actor, max_grad_norm=0.01)
    updated(whole, found)
    norm = means(updated(cut, found))["grad_norm"]
    assert norm > 0.01
    for name, gradient in whole.optimizer.seen[0].items():  # type: ignore[attr-defined]
        assert torch.allclose(cut.optimizer.seen[0][name], gradient * 0.01 / norm, rtol=1e-3, atol=1e-9)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "setting",
    [
        {"clip_range": 0.01}, {"clip_range_high": 0.01}, {"dual_clip": 1.001}, {"value_clip_range": 1e-3},
        {"value_clip_range": None}, {"value_coefficient": 0.5}, {"entropy_coefficient": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_of_the_losses_changes_the_gradient(actor: ActorCritic, setting: dict[str, Any]) -> None:
    found = learned_from(judged(actor))
    stir(actor, seed=4, scale=0.05)
    plain, other = learner(actor), learner(actor, **setting)
    updated(plain, found)
    updated(other, found)
    assert largest_gap(plain.optimizer.seen[0], other.optimizer.seen[0]) > 1e-6  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "setting",
    [
        {"gamma": 0.5}, {"lam": 0.5}, {"whiten_advantages": False}, {"whiten_rewards": True},
        {"truncated": "bootstrap"}, {"truncated": "mask"},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_of_the_advantages_changes_them(actor: ActorCritic, setting: dict[str, Any]) -> None:
    before = judged(actor)
    assert set(setting) <= set(Algorithm.model_fields)
    plain, other = learned_from(before), learned_from(before, **setting)
    assert not torch.allclose(plain.advantages_BT, other.advantages_BT, atol=1e-4)
