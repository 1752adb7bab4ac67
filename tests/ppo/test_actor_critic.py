"""Four roles in one module: the right numbers, gradients where they belong, and nothing changed that must not."""

import hashlib
from typing import Any

import pytest
import torch

from ftune.core.errors import CheckpointError, ModelError
from ftune.peft.full import Full
from ftune.ppo.actor_critic import ActorCritic, PolicyOutput, frozen_parameters
from ftune.ppo.build import build
from tests.ppo.models import VOCABULARY, gradients, llama, lora, parts, sequences, stir

BATCH = sequences()


def make(kind: str, **options: Any) -> ActorCritic:
    """`trunk` and `adapter` on a LoRA policy, `full` and `full_copy` on a whole model."""
    if kind.startswith("full"):
        return build(Full().wrap(llama()), value="copy" if kind == "full_copy" else "trunk", **options)
    return build(lora(dropout=0.1), value="adapter" if kind == "adapter" else "trunk", **options)


KINDS = ("trunk", "adapter", "full", "full_copy")


@pytest.fixture(params=KINDS)
def actor_critic(request: pytest.FixtureRequest) -> ActorCritic:
    """Each arrangement, after some updates."""
    made = make(request.param, temperature=0.7)
    stir(made)
    return made


def policy(actor_critic: ActorCritic, batch: Any = BATCH) -> PolicyOutput:
    out: PolicyOutput = actor_critic("policy", *parts(batch))
    return out


def losses(out: PolicyOutput) -> tuple[torch.Tensor, torch.Tensor]:
    """Something of every output of the policy, and of the value."""
    weights = torch.linspace(-1, 1, out.logprobs_BT.numel()).reshape(out.logprobs_BT.shape)
    by_policy = (out.logprobs_BT * weights).sum() + 0.1 * out.entropy_BT.sum()
    return by_policy, (out.values_BT - weights).square().sum() + out.last_values_B.square().sum()


def fingerprint(actor_critic: ActorCritic) -> dict[str, str]:
    return {
        name: hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()
        for name, value in frozen_parameters(actor_critic)
    }


@torch.no_grad()
def test_log_probabilities_and_entropies_are_those_of_the_models_logits(actor_critic: ActorCritic) -> None:
    """Row by row without padding, from all logits, at the temperature."""
    out = policy(actor_critic)
    for row, (ids, start, end) in enumerate(zip(*parts(BATCH), strict=True)):
        logits = actor_critic.model(input_ids=ids[None, :end]).logits[0, start - 1 : end - 1]
        log = torch.log_softmax(logits / 0.7, dim=-1)
        length = int(end - start)
        expected = log.gather(1, ids[start:end, None]).squeeze(1)
        assert torch.allclose(out.logprobs_BT[row, :length], expected, atol=1e-5)
        assert torch.allclose(out.entropy_BT[row, :length], -(log.exp() * log).sum(-1), atol=1e-5)
        for padded in (out.logprobs_BT, out.entropy_BT, out.values_BT):
            assert not padded[row, length:].any()


@torch.no_grad()
def test_summed_log_probabilities_are_the_likelihood_that_transformers_computes() -> None:
    actor_critic = make("trunk")
    stir(actor_critic)
    labels = BATCH.ids_BS.clone()
    places = torch.arange(labels.shape[1])
    labels[(places < BATCH.starts_B[:, None]) | (places >= BATCH.ends_B[:, None])] = -100
    loss = actor_critic.model(input_ids=BATCH.ids_BS, labels=labels).loss
    assert torch.allclose(-policy(actor_critic).logprobs_BT.sum(), loss * BATCH.lengths_B.sum(), rtol=1e-5)


@torch.no_grad()
def test_a_value_is_of_the_state_before_its_token(actor_critic: ActorCritic) -> None:
    before, row, step = policy(actor_critic), 3, 1
    changed = BATCH.ids_BS.clone()
    place = int(BATCH.starts_B[row]) + step
    changed[row, place] = (changed[row, place] + 1) % VOCABULARY
    after: PolicyOutput = actor_critic("policy", changed, BATCH.starts_B, BATCH.ends_B)
    assert torch.equal(after.values_BT[row, : step + 1], before.values_BT[row, : step + 1])
    later = after.values_BT[row, step + 1 : int(BATCH.lengths_B[row])]
    assert bool((later != before.values_BT[row, step + 1 : step + 1 + len(later)]).all())
    assert after.last_values_B[row] != before.last_values_B[row]


@torch.no_grad()
def test_the_last_value_is_that_of_the_state_behind_the_response(actor_critic: ActorCritic) -> None:
    """One token more makes it a value before a token."""
    out = policy(actor_critic)
    more = torch.cat([BATCH.ids_BS, torch.full((4, 1), 5)], dim=1)
    longer: PolicyOutput = actor_critic("policy", more, BATCH.starts_B, BATCH.ends_B + 1)
    found = longer.values_BT.gather(1, BATCH.lengths_B[:, None]).squeeze(1)
    assert torch.allclose(found, out.last_values_B, atol=1e-6)


@torch.no_grad()
def test_what_stands_behind_the_end_changes_nothing(actor_critic: ActorCritic) -> None:
    behind = torch.arange(BATCH.ids_BS.shape[1]) >= BATCH.ends_B[:, None]
    other = torch.cat([BATCH.ids_BS.masked_fill(behind, 7), torch.full((4, 5), 9)], dim=1)
    for mode in ("policy", "reference"):
        before = actor_critic(mode, *parts(BATCH))
        after = actor_critic(mode, other, BATCH.starts_B, BATCH.ends_B)
        for one, two in zip(before, after, strict=True):
            assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_policy_and_reference_are_one_and_values_are_zero(kind: str) -> None:
    actor_critic = make(kind, temperature=0.7)
    out = policy(actor_critic)
    assert torch.equal(out.logprobs_BT, actor_critic("reference", *parts(BATCH)))
    assert not out.values_BT.any()
    stir(actor_critic)
    assert not torch.allclose(policy(actor_critic).logprobs_BT, out.logprobs_BT)
    assert torch.equal(actor_critic("reference", *parts(BATCH)), out.logprobs_BT)


@pytest.mark.parametrize(
    ("kind", "detach"), [("trunk", False), ("trunk", True), ("adapter", False), ("full_copy", False)]
)
def test_each_loss_reaches_only_what_is_its_own(kind: str, detach: bool) -> None:
    actor_critic = make(kind, detach_value=detach)
    stir(actor_critic)
    own = {name for name in actor_critic.trainable() if "value" in name}
    rest = actor_critic.trainable().keys() - own
    losses(policy(actor_critic))[0].backward()
    assert gradients(actor_critic).keys() == rest
    losses(policy(actor_critic))[1].backward()
    touched = gradients(actor_critic).keys()
    assert touched == (own if kind != "trunk" or detach else own | rest)
    groups = actor_critic.parameter_groups()
    assert (len(groups["policy"]), len(groups["value"])) == (len(rest), len(own))


def test_checkpointed_activations_give_the_same_gradients(actor_critic: ActorCritic) -> None:
    found = []
    for on in (False, True):
        actor_critic.checkpoint_activations(on)
        sum(losses(policy(actor_critic))).backward()  # type: ignore[union-attr]
        found.append(gradients(actor_critic))
    assert found[0].keys() == found[1].keys() == actor_critic.trainable().keys()
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], rtol=1e-5, atol=1e-5), name
    actor_critic.checkpoint_activations(False)
    assert not any(module.training for module in actor_critic.model.modules())


def test_training_changes_neither_what_is_frozen_nor_what_trains(actor_critic: ActorCritic) -> None:
    frozen, names = fingerprint(actor_critic), list(actor_critic.trainable())
    actor_critic.checkpoint_activations(True)
    optimizer = torch.optim.SGD(actor_critic.trainable_parameters(), lr=0.01)
    for _ in range(3):
        reference = actor_critic("reference", *parts(BATCH))
        assert not reference.requires_grad
        sum(losses(policy(actor_critic))).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
    assert fingerprint(actor_critic) == frozen
    assert list(actor_critic.trainable()) == names


def test_there_is_no_dropout_even_while_training(actor_critic: ActorCritic) -> None:
    before = policy(actor_critic).logprobs_BT
    actor_critic.train()
    assert all(module.p == 0.0 for module in actor_critic.modules() if isinstance(module, torch.nn.Dropout))
    assert torch.equal(policy(actor_critic).logprobs_BT, before)


def test_text_has_the_loss_of_transformers_and_a_gradient_for_everything(actor_critic: ActorCritic) -> None:
    labels = BATCH.ids_BS.masked_fill(torch.rand(BATCH.ids_BS.shape) < 0.3, -100)
    loss, count = actor_critic("text", BATCH.ids_BS, labels=labels)
    assert int(count) == int((labels[:, 1:] != -100).sum())
    expected = actor_critic.model(input_ids=BATCH.ids_BS, labels=labels).loss
    assert torch.allclose(loss / count, expected, rtol=1e-5)
    loss.backward()
    found = gradients(actor_critic)
    expected.backward()
    exact = gradients(actor_critic)
    assert found.keys() == actor_critic.trainable().keys()
    for name, value in found.items():
        assert torch.allclose(value / count, exact.get(name, torch.zeros_like(value)), atol=1e-5), name


def test_what_trains_comes_back_exactly(actor_critic: ActorCritic) -> None:
    state, before = actor_critic.trainable_state(), policy(actor_critic)
    stir(actor_critic, seed=3)
    actor_critic.load_trainable(state)
    assert all(torch.equal(one, two) for one, two in zip(policy(actor_critic), before, strict=True))
    del state["value_head.bias"]
    with pytest.raises(CheckpointError, match=r"value_head\.bias"):
        actor_critic.load_trainable(state)


def test_without_a_reference_it_is_not_there() -> None:
    actor_critic = make("full", with_reference=False)
    assert actor_critic.reference_copy is None
    with pytest.raises(ModelError, match="without a reference"):
        actor_critic("reference", *parts(BATCH))
