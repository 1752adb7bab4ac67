"""The clipped losses: numbers by hand with their gradients, and a loop over tokens."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftune.rl.losses import policy_loss, value_loss


def policy(ratio, advantage, **options):
    """Loss of one token and its gradient for the log-probability."""
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    clips = {"clip_low": 0.2, "clip_high": 0.2} | options
    found = policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1), **clips)
    found.loss.backward()
    return found, float(logprobs.grad)


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "gradient", "clipped"),
    [
        (1.0, 1.5, -1.2, 0.0, 1),
        (-1.0, 1.5, 1.5, 1.5, 0),
        (1.0, 0.5, -0.5, -0.5, 0),
        (-1.0, 0.5, 0.8, 0.0, 1),
        (1.0, 1.0, -1.0, -1.0, 0),  # the first minibatch: both branches are equal, the gradient is whole
    ],
)
def test_policy_loss_by_hand(advantage, ratio, loss, gradient, clipped):
    found, slope = policy(ratio, advantage)
    assert float(found.loss.detach()) == pytest.approx(loss, abs=1e-6)
    assert slope == pytest.approx(gradient, abs=1e-6)
    assert float(found.clipped) == clipped
    assert float(found.ratio) == pytest.approx(ratio)
    assert float(found.ratio_max) == pytest.approx(ratio)
    assert float(found.approx_kl) == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)
    assert not any(part.requires_grad for part in found[1:])


def test_both_sides_clip_on_their_own():
    assert float(policy(1.5, 1.0, clip_high=0.28)[0].loss.detach()) == pytest.approx(-1.28)
    assert float(policy(0.5, -1.0, clip_low=0.1)[0].loss.detach()) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "gradient"),
    [
        (-1.0, 5.0, 3.0, 0.0),  # bounded
        (-1.0, 2.0, 2.0, 2.0),  # below the bound
        (-1.0, 0.5, 0.8, 0.0),
        (1.0, 5.0, -1.2, 0.0),  # positive advantages have no second bound
    ],
)
def test_dual_clip_by_hand(advantage, ratio, loss, gradient):
    found, slope = policy(ratio, advantage, dual_clip=3.0)
    assert float(found.loss.detach()) == pytest.approx(loss, abs=1e-6)
    assert slope == pytest.approx(gradient, abs=1e-6)


@pytest.mark.parametrize("difference", [-100.0, 100.0])
def test_a_policy_far_away_gives_finite_losses_and_gradients(difference):
    logprobs = torch.full((1, 2), difference, requires_grad=True)
    found = policy_loss(
        logprobs, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), torch.ones(1, 2), clip_low=0.2, clip_high=0.2
    )
    found.loss.backward()
    assert all(torch.isfinite(part) for part in found)
    assert torch.isfinite(logprobs.grad).all()


@pytest.mark.parametrize(
    ("value", "target", "clip_range", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, 0.2, 1.62, 0.0, 1),  # 0.5 * max(1, 1.8^2)
        (1.0, 0.0, 0.2, 0.5, 1.0, 0),  # 0.5 * max(1, 0.2^2)
        (1.0, 2.0, None, 0.5, -1.0, 0),
        (0.1, 2.0, 0.2, 1.805, -1.9, 0),  # within the range
    ],
)
def test_value_loss_by_hand(value, target, clip_range, loss, gradient, clipped):
    values = torch.tensor([[value]], requires_grad=True)
    found = value_loss(values, torch.zeros(1, 1), torch.tensor([[target]]), torch.ones(1, 1), clip_range=clip_range)
    found.loss.backward()
    assert float(found.loss.detach()) == pytest.approx(loss, abs=1e-6)
    assert float(values.grad) == pytest.approx(gradient, abs=1e-6)
    assert float(found.clipped) == clipped


def slow_policy_loss(logprobs, old, advantages, mask, low, high, dual):
    total = clipped = kl = ratios = 0.0
    largest = 0.0
    for b in range(len(mask)):
        for t in range(len(mask[b])):
            if not mask[b][t]:
                continue
            advantage, ratio = advantages[b][t], math.exp(logprobs[b][t] - old[b][t])
            free, cut = -advantage * ratio, -advantage * min(max(ratio, 1 - low), 1 + high)
            loss = max(free, cut)
            total += min(loss, -dual * advantage) if dual and advantage < 0 else loss
            clipped += cut > free
            kl += ratio - 1 - math.log(ratio)
            ratios += ratio
            largest = max(largest, ratio)
    return [total, clipped, kl, ratios, largest]


@given(
    st.integers(0, 1000),
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.sampled_from([None, 1.5]),
    st.sampled_from([0.0, float("inf"), float("nan")]),
)
def test_policy_loss_equals_a_loop_over_real_tokens(seed, lengths, dual_clip, rubbish):
    logprobs, old, advantages = torch.randn(
        3, len(lengths), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).float()
    slow = slow_policy_loss(*(x.tolist() for x in (logprobs, old, advantages, mask)), 0.1, 0.3, dual_clip)
    spoilt = [x.masked_fill(mask == 0, rubbish) for x in (logprobs, old, advantages)]
    spoilt[0].requires_grad_()
    found = policy_loss(*spoilt, mask, clip_low=0.1, clip_high=0.3, dual_clip=dual_clip)
    assert [float(part.detach()) for part in found] == pytest.approx(slow, abs=1e-9)
    found.loss.backward()
    assert torch.isfinite(spoilt[0].grad).all()
    assert not spoilt[0].grad[mask == 0].any()


@given(
    st.integers(0, 1000),
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.sampled_from([None, 0.3]),
    st.sampled_from([0.0, float("inf"), float("nan")]),
)
def test_value_loss_equals_a_loop_over_real_tokens(seed, lengths, clip_range, rubbish):
    values, old, returns = torch.randn(
        3, len(lengths), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).float()
    total = clipped = 0.0
    for b, length in enumerate(lengths):
        for t in range(length):
            v, o, g = float(values[b, t]), float(old[b, t]), float(returns[b, t])
            near = v if clip_range is None else o + min(max(v - o, -clip_range), clip_range)
            total += max((v - g) ** 2, (near - g) ** 2) / 2
            clipped += (near - g) ** 2 > (v - g) ** 2
    spoilt = [x.masked_fill(mask == 0, rubbish) for x in (values, old, returns)]
    spoilt[0].requires_grad_()
    found = value_loss(*spoilt, mask, clip_range=clip_range)
    assert [float(part.detach()) for part in found] == pytest.approx([total, clipped], abs=1e-9)
    found.loss.backward()
    assert torch.isfinite(spoilt[0].grad).all()
    assert not spoilt[0].grad[mask == 0].any()
