"""Each way to combine sources against a slow computation in plain Python or numpy, and what its paper says of it."""

from math import acos, sin

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.merge.engines.combined import PIECE
from ftune.merge.engines.ties import smallest_kept
from tests.merge.test_combine import close, combined, made, sources

Numbers = list[float]

BRIEFLY = settings(max_examples=60, deadline=None)

EIGHTHS = st.integers(-24, 24).map(lambda number: number / 8)
QUARTERS = st.integers(-8, 8).map(lambda number: number / 4)
"""Their products and sums are exact in fp32, so that no sign hangs on a rounding error."""


@st.composite
def cases(draw: st.DrawFn, fewest: int = 1, most: int = 4) -> tuple[list[Numbers], Numbers]:
    """Updates of one length and their weights."""
    count, length = draw(st.integers(fewest, most)), draw(st.integers(1, 12))
    updates = draw(st.lists(st.lists(EIGHTHS, min_size=length, max_size=length), min_size=count, max_size=count))
    return updates, draw(st.lists(QUARTERS, min_size=count, max_size=count))


def run(name: str, updates: list[Numbers], weights: Numbers, **keys: object) -> Numbers:
    found: Numbers = combined(made(name, **keys), [torch.tensor(update) for update in updates], weights).tolist()
    return found


def slow_sum(updates: list[Numbers], weights: Numbers) -> Numbers:
    total = [0.0] * len(updates[0])
    for update, weight in zip(updates, weights, strict=True):
        for place, value in enumerate(update):
            total[place] += weight * value
    return total


def slow_trim(update: Numbers, density: float) -> Numbers:
    count = max(1, round(density * len(update)))
    least = sorted((abs(value) for value in update), reverse=True)[count - 1]
    return [value if abs(value) >= least else 0.0 for value in update]


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def slow_elect_and_average(updates: list[Numbers], weights: Numbers, scale: float) -> Numbers:
    merged = []
    for place, elected in enumerate(sign(total) for total in slow_sum(updates, weights)):
        parts = [(weight * update[place], weight) for update, weight in zip(updates, weights, strict=True)]
        agree = [(part, abs(weight)) for part, weight in parts if elected and sign(part) == elected]
        share = sum(weight for _, weight in agree)
        merged.append(scale * sum(part for part, _ in agree) / share if agree else 0.0)
    return merged


@BRIEFLY
@given(cases())
def test_sums(case: tuple[list[Numbers], Numbers]) -> None:
    updates, weights = case
    assert run("linear", updates, weights) == slow_sum(updates, weights)
    assert run("cat", updates, weights) == slow_sum(updates, weights)
    assert run("task_arithmetic", updates, weights, scale=0.5) == [v / 2 for v in slow_sum(updates, weights)]


@BRIEFLY
@given(cases(), st.sampled_from([0.1, 0.25, 0.5, 1.0]), st.sampled_from([-1.0, 0.5, 2.0]))
def test_ties_trims_elects_and_averages(case: tuple[list[Numbers], Numbers], density: float, scale: float) -> None:
    updates, weights = case
    wanted = slow_elect_and_average([slow_trim(update, density) for update in updates], weights, scale)
    assert run("ties", updates, weights, density=density, scale=scale) == pytest.approx(wanted, rel=1e-6)


def test_ties_drops_small_values_and_lets_strong_signs_win() -> None:
    first, second = [4.0, -3.0, 0.1, 2.0], [2.0, 1.0, -0.1, -6.0]
    assert run("ties", [first, second], [1.0, 1.0], density=0.75) == [3.0, -3.0, 0.0, -6.0]


@BRIEFLY
@given(cases(), st.integers(1, 8).map(lambda number: number / 4))
def test_ties_knows_shares_not_sizes_of_equal_weights(case: tuple[list[Numbers], Numbers], weight: float) -> None:
    updates, _ = case
    plain = run("ties", updates, [1.0] * len(updates), density=0.5)
    assert run("ties", updates, [weight] * len(updates), density=0.5) == pytest.approx(plain, rel=1e-6)


def test_ties_of_tensors_larger_than_a_piece() -> None:
    updates = sources(2, (PIECE + 5,))
    found = combined(made("ties", density=0.25), updates, [1.0, 1.0]).numpy()
    trimmed = []
    for update in updates:
        values = update.numpy()
        kept = np.argsort(-np.abs(values), kind="stable")[: round(0.25 * len(values))]
        trimmed.append(np.zeros_like(values))
        trimmed[-1][kept] = values[kept]
    first, second = trimmed
    alone = (first == 0) | (second == 0)
    agreed = np.where(first * second > 0, (first + second) / 2, np.where(np.abs(first) > np.abs(second), first, second))
    np.testing.assert_allclose(found, np.where(alone, first + second, agreed), rtol=1e-6)


@BRIEFLY
@given(st.lists(EIGHTHS, min_size=1, max_size=40), st.floats(0.01, 1))
def test_trimming_keeps_the_share_and_all_that_equal_the_last_one(update: Numbers, density: float) -> None:
    limit = smallest_kept(torch.tensor(update), density)
    assert [v if abs(v) >= limit else 0.0 for v in update] == slow_trim(update, density)


@BRIEFLY
@given(cases(), st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 99))
def test_dare_drops_and_rescales_what_it_keeps(case: tuple[list[Numbers], Numbers], density: float, seed: int) -> None:
    updates, weights = case
    generator = torch.Generator().manual_seed(seed)
    thinned = []
    for update in updates:
        drawn = torch.rand(len(update), generator=generator).tolist()
        kept = [value if chance < density else 0.0 for value, chance in zip(update, drawn, strict=True)]
        thinned.append([value / density for value in kept])
    tensors = [torch.tensor(update) for update in updates]
    found = combined(made("dare_linear", density=density), tensors, weights, seed)
    assert found.tolist() == slow_sum(thinned, weights)
    found = combined(made("dare_ties", density=density, scale=0.5), tensors, weights, seed)
    assert found.tolist() == pytest.approx(slow_elect_and_average(thinned, weights, 0.5), rel=1e-6)


def test_dare_expects_the_weighted_sum() -> None:
    updates, weights, seeds = sources(2, (50,)), [0.75, -0.5], 2000
    way = made("dare_linear", density=0.25)
    mean = torch.stack([combined(way, updates, weights, seed) for seed in range(seeds)]).mean(0)
    spread = sum(
        (w * u) ** 2 * 3 for u, w in zip(updates, weights, strict=True)
    )  # variance: D^2 (1 - density) / density
    assert isinstance(spread, torch.Tensor)
    wanted = combined(made("linear"), updates, weights)
    assert ((mean - wanted).abs() < 5 * (spread / seeds).sqrt()).all()


def test_dare_drops_each_source_by_itself_in_every_piece() -> None:
    ones = torch.ones(PIECE + 2**16)
    found = combined(made("dare_linear", density=0.5), [ones, ones], [1.0, 10.0])
    for piece in (found[:PIECE], found[PIECE:]):
        values, counts = piece.unique(return_counts=True)
        assert values.tolist() == [0.0, 2.0, 20.0, 22.0]
        assert ((counts / len(piece) - 0.25).abs() < 0.01).all()


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6), (4, 3, 2)])
@pytest.mark.parametrize("rank", [1, 3])
def test_svd_is_the_truncated_svd_of_the_sum(shape: tuple[int, ...], rank: int) -> None:
    updates = sources(2, shape)
    total = (0.75 * updates[0] - 0.5 * updates[1]).double().numpy()
    u, values, v = np.linalg.svd(total.reshape(shape[0], -1), full_matrices=False)
    wanted = (u[:, :rank] * values[:rank]) @ v[:rank]
    close(combined(made("svd", rank=rank), updates, [0.75, -0.5]), torch.tensor(wanted.reshape(shape)).float())


def test_svd_keeps_directions_a_thousand_times_weaker_than_the_first() -> None:
    """As D D^T has the squares of the singular values, fp32 would lose those."""
    basis = torch.linalg.qr(sources(1, (40, 40))[0].double()).Q
    values = torch.zeros(40, dtype=torch.float64)
    values[:3] = torch.tensor([1.0, 2e-4, 1e-4])
    update = ((basis * values) @ basis.flip(0)).float()
    found = combined(made("svd", rank=2), [update], [1.0])
    wanted = (basis[:, :2] * values[:2]) @ basis.flip(0)[:2]
    assert float((found - wanted).abs().max()) < 1e-6


def slow_slerp(first: Numbers, second: Numbers, t: float) -> Numbers:
    lengths = sum(v * v for v in first) ** 0.5 * sum(v * v for v in second) ** 0.5
    cosine = sum(a * b for a, b in zip(first, second, strict=True)) / lengths if lengths else 1.0
    if abs(cosine) > 1 - 1e-7:
        return [(1 - t) * a + t * b for a, b in zip(first, second, strict=True)]
    angle = acos(cosine)
    shares = sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)
    return [shares[0] * a + shares[1] * b for a, b in zip(first, second, strict=True)]


@BRIEFLY
@given(cases(fewest=2, most=2), st.integers(0, 4))
def test_slerp_follows_the_arc(case: tuple[list[Numbers], Numbers], quarter: int) -> None:
    (first, second), t = case[0], quarter / 4
    wanted = slow_slerp(first, second, t)
    assert run("slerp", [first, second], [3 - 3 * t, 3 * t]) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_slerp_keeps_the_length_and_splits_the_angle() -> None:
    first, second = ((u / u.double().norm()).float() for u in sources(2, (PIECE + 3,)))
    found = combined(made("slerp"), [first, second], [0.75, 0.25])
    angle = torch.acos(first.double() @ second.double())
    assert float(found.norm()) == pytest.approx(1, rel=1e-5)
    assert float(torch.acos(first.double() @ found.double())) == pytest.approx(float(angle) / 4, rel=1e-4)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 2.0)])
def test_slerp_ends_at_its_sources(weights: tuple[float, float]) -> None:
    updates = sources(2)
    assert torch.equal(combined(made("slerp"), updates, list(weights)), updates[bool(weights[1])])


@pytest.mark.parametrize(("factor", "offset"), [(3, 0), (-1, 0), (0, 0), (1, 1e-5)])
def test_slerp_without_an_arc_is_the_straight_line(factor: float, offset: float) -> None:
    (first,) = sources(1)
    second = factor * first + offset
    close(combined(made("slerp"), [first, second], [0.75, 0.25]), 0.75 * first + 0.25 * second)
