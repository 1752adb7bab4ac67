"""The fused loss in chunks against plain autograd over all logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ftune.rl.cross_entropy import cross_entropy

N, V, D = 13, 50, 8
FORMS = [{}, {"softcap": 5.0}, {"scale": 0.5}, {"softcap": 5.0, "scale": 2.0}]


def plain(hidden, weight, targets, *, bias_V=None, softcap=None, scale=1.0):
    """The definition, over all logits at once."""
    logits = (hidden @ weight.T + (0 if bias_V is None else bias_V)) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), (logits.argmax(1) == targets).sum()


def inputs(dtype=torch.float32, rows=N, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(rows, D, generator=generator, dtype=dtype) * spread).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(V, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, bias, torch.randint(V, (rows,), generator=generator)


def assert_close(found, expected, relative):
    """Relative to the largest element."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= relative * other.abs().max()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_size", [1, 5, N, 100])
def test_loss_and_gradients_equal_plain_autograd(form, with_bias, chunk_size):
    hidden, weight, bias, targets = inputs()
    wanted = [hidden, weight, bias] if with_bias else [hidden, weight]
    given_bias = bias if with_bias else None
    loss, correct = cross_entropy(hidden, weight, targets, bias_V=given_bias, chunk_size=chunk_size, **form)
    # The reference in float64, so that only the error of the function itself is measured.
    wide = [value.detach().double().requires_grad_() for value in wanted]
    expected, hits = plain(*wide[:2], targets, bias_V=wide[2] if with_bias else None, **form)
    assert_close([loss], [expected.float()], 1e-6)
    assert int(correct) == int(hits)
    slopes = torch.autograd.grad(0.3 * expected, wide)
    assert_close(torch.autograd.grad(0.3 * loss, wanted), [slope.float() for slope in slopes], 1e-6)


@given(st.integers(0, 1000), st.integers(0, 9), st.integers(1, 10), st.floats(0.1, 40.0))
def test_any_number_of_rows_in_any_chunks(seed, rows, chunk_size, spread):
    hidden, weight, _, targets = inputs(torch.float64, rows, seed, spread)
    loss, correct = cross_entropy(hidden, weight, targets, chunk_size=chunk_size)
    expected, hits = plain(hidden, weight, targets)
    torch.testing.assert_close(loss, expected)
    assert int(correct) == int(hits)
    found = torch.autograd.grad(loss, [hidden, weight])
    torch.testing.assert_close(found, torch.autograd.grad(expected, [hidden, weight]))


def test_frozen_weights_and_passes_without_gradients_get_none():
    hidden, weight, _, targets = inputs()
    frozen = weight.detach()
    (alone,) = torch.autograd.grad(cross_entropy(hidden, frozen, targets).loss, [hidden])
    assert torch.equal(alone, torch.autograd.grad(cross_entropy(hidden, weight, targets).loss, [hidden])[0])
    with torch.no_grad():
        looked = cross_entropy(hidden, weight, targets)
    assert not looked.loss.requires_grad
    torch.testing.assert_close(looked.loss, cross_entropy(hidden, weight, targets).loss)


def test_a_second_backward_pass_is_refused():
    hidden, weight, _, targets = inputs()
    loss = cross_entropy(hidden, weight, targets).loss
    loss.backward(retain_graph=True)
    with pytest.raises(TypeError):
        loss.backward()


@pytest.mark.parametrize("trained", [torch.bfloat16, torch.float32])
def test_under_autocast_products_are_in_16_bit_and_sums_are_not(trained):
    hidden, weight, _, targets = inputs()
    hidden, weight = (value.detach().to(trained).requires_grad_() for value in (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = cross_entropy(hidden, weight, targets, chunk_size=4)
    assert loss.dtype == torch.float32
    wide = [value.detach().bfloat16().float().requires_grad_() for value in (hidden, weight)]
    expected, _ = plain(*wide, targets)
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    found = torch.autograd.grad(loss, [hidden, weight])
    slopes = torch.autograd.grad(expected, wide)
    assert [one.dtype for one in found] == [trained, trained]
    assert_close([one.float() for one in found], slopes, 3e-2)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numbers = max(self.numbers, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


def test_logits_of_all_rows_never_stand_at_once():
    hidden, weight, _, targets = inputs(rows=400)
    with Largest() as largest:
        cross_entropy(hidden, weight.detach(), targets, chunk_size=100).loss.backward()
    assert largest.numbers == 100 * V
