"""Log-probabilities and entropies in chunks against plain autograd over all logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ftune.rl.logprobs import token_logprobs

N, V, D = 13, 50, 8


def plain(hidden, weight, targets, *, temperature=1.0, bias=None, softcap=None, scale=1.0):
    """The definition, over all logits at once."""
    logits = (hidden @ weight.T + (0 if bias is None else bias)) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logp = torch.log_softmax(logits / temperature, dim=-1)
    return logp[torch.arange(len(targets)), targets], -(logp.exp() * logp).sum(-1)


def inputs(dtype=torch.float32, rows=N, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(rows, D, generator=generator, dtype=dtype) * spread).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(V, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, bias, torch.randint(V, (rows,), generator=generator)


def gradients(outputs, wanted, seed=1):
    """Of a loss that weighs each output of each row differently."""
    generator = torch.Generator().manual_seed(seed)
    loss = sum((torch.randn(len(out), generator=generator, dtype=torch.float64) * out).sum() for out in outputs)
    return torch.autograd.grad(loss, wanted)


def assert_close(found, expected, relative):
    """Relative to the largest element."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= relative * other.abs().max()


FORMS = [
    {},
    {"temperature": 0.7},
    {"softcap": 5.0},
    {"softcap": 5.0, "temperature": 1.3, "scale": 0.5},
    {"scale": 2.0, "temperature": 0.7},
]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_size", [1, 5, N, 100])
def test_values_and_gradients_equal_plain_autograd(form, with_bias, chunk_size):
    hidden, weight, bias, targets = inputs()
    wanted = [hidden, weight, bias] if with_bias else [hidden, weight]
    found = token_logprobs(hidden, weight, targets, bias_V=bias if with_bias else None, chunk_size=chunk_size, **form)
    # The reference in float64, so that only the error of the function itself is measured.
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    expected = plain(wide[0], wide[1], targets, bias=wide[2] if with_bias else None, **form)
    assert_close(found, [x.float() for x in expected], 1e-6)
    slopes = gradients(expected, wide[: len(wanted)])
    assert_close(gradients(found, wanted), [x.float() for x in slopes], 1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_finite_differences(form):
    hidden, weight, bias, targets = inputs(torch.float64, rows=4)
    torch.autograd.gradcheck(
        lambda h, w, b: token_logprobs(h, w, targets, bias_V=b, chunk_size=3, **form), (hidden, weight, bias)
    )


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 9), st.integers(1, 10), st.floats(0.0, 40.0))
def test_any_number_of_rows_in_any_chunks(seed, rows, chunk_size, spread):
    hidden, weight, _, targets = inputs(torch.float64, rows, seed, spread)
    found = token_logprobs(hidden, weight, targets, chunk_size=chunk_size)
    expected = plain(hidden, weight, targets)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for one, other in zip(gradients(found, [hidden, weight]), gradients(expected, [hidden, weight]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_each_output_alone_has_its_gradient():
    hidden, weight, _, targets = inputs(torch.float64)
    for chosen in (0, 1):
        found = gradients([token_logprobs(hidden, weight, targets, chunk_size=4)[chosen]], [hidden])
        assert_close(found, gradients([plain(hidden, weight, targets)[chosen]], [hidden]), 1e-9)


def test_without_entropy_the_rest_stays():
    hidden, weight, _, targets = inputs()
    logprobs, entropy = token_logprobs(hidden, weight, targets, with_entropy=False)
    assert not entropy.any()
    assert not entropy.requires_grad
    expected = token_logprobs(hidden, weight, targets)[0]
    assert_close([logprobs], [expected], 1e-6)
    assert_close(gradients([logprobs], [hidden, weight]), gradients([expected], [hidden, weight]), 1e-6)


def test_a_frozen_output_layer_gets_no_gradient():
    hidden, weight, bias, targets = inputs()
    weight.requires_grad_(False)
    bias.requires_grad_(False)
    logprobs, entropy = token_logprobs(hidden, weight, targets, bias_V=bias)
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert weight.grad is None
    assert bias.grad is None


def test_no_graph_without_gradients():
    hidden, weight, _, targets = inputs()
    with torch.no_grad():
        found = token_logprobs(hidden, weight, targets)
    assert not any(out.requires_grad for out in found)
    assert_close(found, token_logprobs(hidden, weight, targets), 0.0)


def test_inputs_stay_as_they_were():
    hidden, weight, bias, targets = inputs()
    copies = [x.detach().clone() for x in (hidden, weight, bias)]
    gradients(token_logprobs(hidden, weight, targets, bias_V=bias, softcap=3.0), [hidden, weight, bias])
    assert all(torch.equal(x, copy) for x, copy in zip((hidden, weight, bias), copies, strict=True))


def test_logits_of_a_bf16_model_are_widened_before_the_softmax():
    """The product is in bf16 and so are its errors; the softmax over it is not."""
    hidden, weight, _, targets = inputs(torch.bfloat16, spread=4.0)
    found = token_logprobs(hidden, weight, targets, chunk_size=4)
    assert {out.dtype for out in found} == {torch.float32}
    logp = torch.log_softmax((hidden @ weight.T).detach().float(), -1)
    assert_close(found[:1], [logp.gather(1, targets[:, None])[:, 0]], 1e-6)
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    slopes = gradients(plain(*wide, targets), wide)
    assert_close(gradients(found, [hidden, weight]), [x.bfloat16() for x in slopes], 2e-2)


def test_under_autocast_the_product_is_in_its_dtype_forward_and_backward():
    hidden, weight, bias, targets = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = token_logprobs(hidden, weight, targets, bias_V=bias, chunk_size=4)
        inside = gradients(found, [hidden, weight, bias])
    narrow = [x.detach().bfloat16().requires_grad_() for x in (hidden, weight, bias)]
    expected = token_logprobs(*narrow[:2], targets, bias_V=narrow[2], chunk_size=4)
    assert_close(found, expected, 0.0)
    outside = token_logprobs(*narrow[:2], targets, bias_V=narrow[2], chunk_size=4)
    assert_close(inside, [x.float() for x in gradients(outside, narrow)], 0.0)


def test_a_certain_row_has_finite_gradients():
    """One logit far above the others: probability 1, entropy 0."""
    hidden, weight, _, targets = inputs(spread=1000.0)
    found = token_logprobs(hidden, weight, targets)
    assert all(torch.isfinite(out).all() for out in found)
    assert all(torch.isfinite(slope).all() for slope in gradients(found, [hidden, weight]))
    assert found[1].min() >= 0


class WidestTable(TorchDispatchMode):
    """The most rows of any tensor of V columns that an operation gives."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.ndim == 2 and tensor.shape[1] == V:
                self.rows = max(self.rows, len(tensor))
        return out


@pytest.mark.parametrize("chunk_size", [D + 1, D + 3])  # the turned weights have D rows
def test_no_more_rows_of_logits_than_a_chunk_forward_and_backward(chunk_size):
    hidden, weight, _, targets = inputs()
    weight.requires_grad_(False)
    with WidestTable() as seen:
        gradients(token_logprobs(hidden, weight, targets, chunk_size=chunk_size), [hidden])
    assert seen.rows == chunk_size


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("form", FORMS)
def test_compiled_kernels_equal_plain_autograd(form, dtype, relative):
    for rows in (64, 300, 1):  # a second size makes the kernels dynamic
        *on_cpu, targets = inputs(dtype, rows)
        ours = [x.detach().cuda().requires_grad_() for x in on_cpu]
        wide = [x.detach().double().requires_grad_() for x in on_cpu]
        found = token_logprobs(*ours[:2], targets.cuda(), bias_V=ours[2], chunk_size=128, **form)
        found = [out.cpu() for out in found]
        expected = plain(*wide[:2], targets, bias=wide[2], **form)
        assert_close(found, [x.float() for x in expected], relative)
        slopes = [slope.cpu() for slope in gradients(found, ours)]
        assert_close(slopes, [slope.to(dtype) for slope in gradients(expected, wide)], relative)


@pytest.mark.gpu
def test_memory_on_a_gpu_is_that_of_a_chunk():
    torch.compiler.reset()  # after eight forms in one process (torch 2.11) nothing more is compiled
    rows, width, vocabulary, chunk_size = 8192, 64, 32768, 512
    hidden = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(vocabulary, width, device="cuda", dtype=torch.bfloat16)
    targets = torch.randint(vocabulary, (rows,), device="cuda")
    for _ in range(2):  # compiling takes memory of its own
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        logprobs, entropy = token_logprobs(hidden, weight, targets, chunk_size=chunk_size)
        (logprobs.sum() + entropy.sum()).backward()
        hidden.grad = None
    chunk = chunk_size * vocabulary * 2  # bytes
    assert torch.cuda.max_memory_allocated() - before < 3 * chunk
