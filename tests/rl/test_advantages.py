"""Rewards of tokens, advantages and returns."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftune.rl.advantages import gae, token_rewards
from ftune.rl.kl import kl_estimate

NAN = float("nan")


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=atol, rtol=0)


def mask_of(lengths, width):
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).float()


def slow_gae(rewards, values, length, gamma, lam, last_value=0.0):
    """A_t as the sum over all later deltas (arXiv 1506.02438, equation 16), by a double loop."""
    known = [*values[:length], last_value]
    deltas = [rewards[t] + gamma * known[t + 1] - known[t] for t in range(length)]
    advantages = [0.0] * len(rewards)
    for t in range(length):
        for later in range(t, length):
            advantages[t] += (gamma * lam) ** (later - t) * deltas[later]
    return advantages, [advantages[t] + known[t] if t < length else 0.0 for t in range(len(rewards))]


def test_rewards_by_hand():
    kl = kl_estimate(torch.tensor([[-1.0, -2.0, -0.5]]), torch.tensor([[-1.2, -1.5, -0.5]]), "k1")
    close(token_rewards(torch.ones(1), kl, torch.ones(1, 3), 0.1), [[-0.02, 0.05, 1.0]])


def test_the_score_stands_at_the_last_real_token_and_nothing_behind_it():
    kl = torch.tensor([[1.0, 1.0, 7.0, NAN], [1.0, 1.0, 1.0, 1.0], [1.0, NAN, NAN, NAN]])
    rewards = token_rewards(torch.tensor([5.0, 6.0, 7.0]), kl, mask_of([2, 4, 1], 4), 0.5)
    close(rewards, [[-0.5, 4.5, 0, 0], [-0.5, -0.5, -0.5, 5.5], [6.5, 0, 0, 0]])


def test_a_row_that_is_left_out_has_no_reward_even_without_a_score():
    rewards = token_rewards(torch.tensor([NAN, 1.0]), torch.ones(2, 2), mask_of([0, 2], 2), 0.1)
    close(rewards, [[0.0, 0.0], [-0.1, 0.9]])


@pytest.mark.parametrize(
    ("gamma", "lam", "advantages", "returns"),
    [
        (1.0, 0.95, [0.46575, 0.385, 0.3], [0.96575, 0.985, 1.0]),
        (1.0, 1.0, [0.5, 0.4, 0.3], [1.0, 1.0, 1.0]),
        (1.0, 0.0, [0.1, 0.1, 0.3], [0.6, 0.7, 1.0]),
        (0.9, 0.8, [0.21712, 0.246, 0.3], [0.71712, 0.846, 1.0]),
    ],
)
def test_gae_by_hand(gamma, lam, advantages, returns):
    found = gae(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.7]]), torch.ones(1, 3), gamma, lam)
    close(found[0], [advantages])
    close(found[1], [returns])


def test_the_value_of_a_state_that_was_cut_off_is_bootstrapped():
    rewards, values = torch.zeros(2, 3), torch.tensor([[0.5, 0.6, 9.0], [0.5, 0.6, 0.7]])
    advantages, returns = gae(rewards, values, mask_of([2, 3], 3), 0.9, 0.0, torch.tensor([2.0, 3.0]))
    close(advantages, [[0.04, 1.2, 0.0], [0.04, 0.03, 2.0]])
    close(returns, [[0.54, 1.8, 0.0], [0.54, 0.63, 2.7]])


@st.composite
def batches(draw):
    width = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(0, width), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    rewards, values = torch.randn(2, len(lengths), width, generator=generator, dtype=torch.float64)
    last_values = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    return rewards, values, lengths, last_values


@given(batches(), st.floats(0, 1), st.floats(0, 1))
def test_gae_equals_the_double_loop(batch, gamma, lam):
    rewards, values, lengths, last_values = batch
    mask = mask_of(lengths, rewards.shape[1])
    for bootstrap in (None, last_values):
        advantages, returns = gae(rewards, values, mask, gamma, lam, bootstrap)
        for row, length in enumerate(lengths):
            last = 0.0 if bootstrap is None else float(bootstrap[row])
            slow = slow_gae(rewards[row].tolist(), values[row].tolist(), length, gamma, lam, last)
            close(advantages[row], torch.tensor(slow[0], dtype=torch.float64), atol=1e-9)
            close(returns[row], torch.tensor(slow[1], dtype=torch.float64), atol=1e-9)


@given(batches())
def test_with_lambda_one_returns_are_the_sums_of_rewards_to_come(batch):
    rewards, values, lengths, _ = batch
    _, returns = gae(rewards, values, mask_of(lengths, rewards.shape[1]), 1.0, 1.0)
    for row, length in enumerate(lengths):
        for t in range(length):
            assert float(returns[row, t]) == pytest.approx(sum(rewards[row, t:length].tolist()), abs=1e-9)


@given(batches(), st.sampled_from([1e9, float("inf"), NAN]))
def test_what_stands_behind_the_end_changes_nothing(batch, rubbish):
    rewards, values, lengths, last_values = batch
    mask = mask_of(lengths, rewards.shape[1])
    spoilt = [tensor.masked_fill(mask == 0, rubbish) for tensor in (rewards, values)]
    for bootstrap in (None, last_values):
        for clean, dirty in zip(
            gae(rewards, values, mask, 0.9, 0.8, bootstrap), gae(*spoilt, mask, 0.9, 0.8, bootstrap), strict=True
        ):
            assert torch.equal(clean, dirty)
            assert not dirty[mask == 0].any()


def test_the_inputs_of_gae_stay_as_they_were():
    """A single column is contiguous when turned: the loop must not work inside the caller's tensor."""
    rewards, values = torch.ones(3, 1), torch.ones(3, 1)
    gae(rewards, values, torch.ones(3, 1), 1.0, 1.0)
    assert torch.equal(rewards, torch.ones(3, 1))
    assert torch.equal(values, torch.ones(3, 1))
