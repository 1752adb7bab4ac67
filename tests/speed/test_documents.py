"""Attention a row at a time against the definition, written out with all scores."""

import pytest
import torch

from ftune.speed.documents import rows_attention
from ftune.speed.extras import UnsupportedError

LENGTHS = [5, 1, 0, 8, 3]
T, D = sum(LENGTHS), 4


def plain(query, key, value, window, scale):
    """softmax(q k / scale) v of each query over the keys of its row that it sees."""
    group = query.shape[1] // key.shape[1]
    row = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    back = torch.arange(T)[:, None] - torch.arange(T)
    sees = (row[:, None] == row) & (back >= 0) & (back < (window or T))
    scores = query @ key.repeat_interleave(group, 1).transpose(2, 3) * scale
    weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
    return (weights @ value.repeat_interleave(group, 1)).transpose(1, 2)


def inputs(heads, groups):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, n, T, D, generator=generator).requires_grad_() for n in (heads, groups, groups)]


BORDERS = torch.tensor([0, *LENGTHS]).cumsum(0).int()


@pytest.mark.parametrize("window", [None, 2, 5])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (3, 1)])
def test_values_and_gradients_are_those_of_the_definition(heads, groups, window):
    given = inputs(heads, groups)
    module = torch.nn.Identity()
    found, _ = rows_attention(module, *given, None, scaling=0.3, sliding_window=window, cu_seq_lens_q=BORDERS)
    expected = plain(*given, window, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    slopes = [torch.autograd.grad((weights * out).sum(), given) for out in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("extras", "why"),
    [
        ({"softcap": 50.0}, "caps its scores"),
        ({"s_aux": torch.zeros(4)}, "attention sinks"),
        ({"is_causal": False}, "not causal"),
        ({"cu_seq_lens_q": None}, "where rows begin"),
        ({"attention_mask": torch.ones(1, 1, T, T)}, "mask of its own"),
    ],
)
def test_what_it_does_not_compute_is_refused(extras, why):
    asked = {"attention_mask": None, "cu_seq_lens_q": BORDERS, **extras}
    with pytest.raises(UnsupportedError, match=why):
        rows_attention(torch.nn.Identity(), *inputs(4, 2), **asked)
