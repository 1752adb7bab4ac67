"""Moments over real tokens of all ranks."""

import json
import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given
from hypothesis import strategies as st

from ftune.rl.guard import stops_epoch
from ftune.rl.moments import RunningMoments, explained_variance, masked_moments, whiten

NAN = float("nan")


def moments_of(x, mask):
    return [float(moment) for moment in masked_moments(torch.tensor(x), torch.tensor(mask))]


def test_padding_does_not_count():
    assert moments_of([[1.0, 2.0], [3.0, 99.0]], [[1.0, 1.0], [1.0, 0.0]]) == pytest.approx([2, 2 / 3, 3])


def test_nothing_real_gives_zeros():
    assert moments_of([[NAN, 1.0]], [[0.0, 0.0]]) == [0, 0, 0]


def test_a_large_mean_does_not_swallow_the_variance():
    mean, variance, _ = moments_of([4096.0, 4096.25, 4096.5] * 1000, [1.0] * 3000)
    assert (mean, variance) == pytest.approx((4096.25, 0.0625 * 2 / 3))
    assert moments_of([1e5 / 3] * 3000, [1.0] * 3000)[1] < 1e-12


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([0.0, NAN, float("inf")]),
)
def test_moments_are_those_of_the_real_elements(pairs, rubbish):
    real = [x for x, keep in pairs if keep]
    x = torch.tensor([x if keep else rubbish for x, keep in pairs], dtype=torch.float64)
    mean, variance, count = masked_moments(x, torch.tensor([float(keep) for _, keep in pairs]))
    assert float(count) == len(real)
    assert float(mean) == pytest.approx(statistics.fmean(real) if real else 0.0, abs=1e-9)
    assert float(variance) == pytest.approx(statistics.pvariance(real) if real else 0.0, abs=1e-6)


def test_whitening_by_hand():
    x, mask = torch.tensor([1.0, 2.0, 3.0, 50.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    step = math.sqrt(3 / 2)
    assert whiten(x, mask).tolist() == pytest.approx([-step, 0, step, 0])
    assert whiten(x, mask, shift_mean=False).tolist() == pytest.approx([2 - step, 2, 2 + step, 0])


@given(st.integers(0, 1000), st.integers(2, 30), st.sampled_from([0.0, NAN, float("inf")]))
@example(seed=429, real=2, rubbish=0.0)
def test_what_is_whitened_has_mean_zero_and_variance_one(seed, real, rubbish):
    x = torch.randn(3, 10, generator=torch.Generator().manual_seed(seed)) * 7 + 100
    mask = (torch.arange(30) < real).float().view(3, 10)
    white = whiten(x.masked_fill(mask == 0, rubbish), mask)
    assert white.dtype == x.dtype
    assert white[mask == 1].mean().item() == pytest.approx(0, abs=1e-5)
    variance = statistics.pvariance(x[mask == 1].double().tolist())  # of two numbers, it may be close to 0
    assert white[mask == 1].var(unbiased=False).item() == pytest.approx(variance / (variance + 1e-8), abs=1e-5)
    assert not white[mask == 0].any()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e5])
def test_constant_numbers_become_zeros(value):
    assert whiten(torch.full((2, 3), value), torch.ones(2, 3)).abs().max() < 1e-5


def test_explained_variance_by_hand():
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 70.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(torch.zeros(1, 4), returns, mask) == pytest.approx(0)
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3)
    assert explained_variance(torch.tensor([[0.5, 2.0, 3.5, NAN]]), returns, mask) == pytest.approx(0.75)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e5 / 3])
def test_constant_returns_leave_nothing_to_explain(value):
    returns = torch.full((2, 500), value)
    assert explained_variance(torch.randn(2, 500), returns, torch.ones(2, 500)) is None
    assert explained_variance(returns, returns, torch.zeros(2, 500)) is None


def test_returns_that_differ_by_rounding_are_constant():
    returns = torch.tensor([[1.0, 1.0 + 1e-6, 1.0 - 1e-6]])  # a variance of 7e-13
    assert explained_variance(torch.zeros(1, 3), returns, torch.ones(1, 3)) is None


@given(st.lists(st.lists(st.floats(-1e3, 1e3) | st.just(NAN), max_size=6), max_size=5))
def test_running_moments_are_those_of_everything_seen(batches):
    moments = RunningMoments()
    for batch in batches:
        moments.update(torch.tensor(batch, dtype=torch.float64))
        moments = RunningMoments.from_state(json.loads(json.dumps(moments.state())))
    seen = [x for batch in batches for x in batch if not math.isnan(x)]
    assert moments.count == len(seen)
    assert moments.mean == pytest.approx(statistics.fmean(seen) if seen else 0.0, abs=1e-8)
    assert moments.std == pytest.approx(statistics.pstdev(seen) if seen else 0.0, abs=1e-5)


@pytest.fixture
def two_ranks():
    """Calls a function with each rank's number and its `Reduce`, as two gloo processes would; the results in order."""

    def run(function):
        store = dist.HashStore()

        def rank(number):
            group = dist.ProcessGroupGloo(store, number, 2, timedelta(seconds=60))

            def reduce(tensor):
                tensor = tensor.clone()
                group.allreduce([tensor]).wait()
                return tensor

            return function(number, reduce)

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(rank, range(2)))

    return run


SHARES = [
    (torch.tensor([[1.0, 2.0]]), torch.ones(1, 2)),
    (torch.tensor([[3.0, 4.0, 99.0]]), torch.tensor([[1.0, 1, 0]])),
]
WHOLE = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 99.0]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
"""The same numbers on one rank."""


def test_two_ranks_whiten_as_one_process(two_ranks):
    first, second = two_ranks(lambda rank, reduce: whiten(*SHARES[rank], reduce))
    assert first.flatten().tolist() + second.flatten().tolist() == pytest.approx(
        [*whiten(*WHOLE)[WHOLE[1] == 1].tolist(), 0]
    )


def test_two_ranks_explain_the_variance_of_one_process(two_ranks):
    found = two_ranks(lambda rank, reduce: explained_variance(SHARES[rank][0].square(), *SHARES[rank], reduce))
    assert found[0] == found[1] == pytest.approx(explained_variance(WHOLE[0].square(), *WHOLE))


def test_two_ranks_see_the_scores_of_one_process(two_ranks):
    def run(rank, reduce):
        moments = RunningMoments()
        moments.update(torch.tensor([]) if rank == 0 else torch.tensor([3.0, 4.0]), reduce)
        moments.update(torch.tensor([1.0, NAN]) if rank == 0 else torch.tensor([2.0]), reduce)
        return moments.state()

    single = RunningMoments()
    single.update(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    first, second = two_ranks(run)
    assert first == second == pytest.approx(single.state())


def test_a_rank_that_went_far_stops_both(two_ranks):
    """Rank 0 alone would go on, and rank 1 alone would stop: the reduced KL is 0.5."""
    sums = [(0.0, 2.0), (2.0, 2.0)]  # of the approximate KL, and tokens

    def run(rank, reduce):
        kl, tokens = reduce(torch.tensor(sums[rank]))
        return stops_epoch(float(kl / tokens), 0.3)

    assert [stops_epoch(kl / tokens, 0.3) for kl, tokens in sums] == [False, True]
    assert two_ranks(run) == [True, True]
