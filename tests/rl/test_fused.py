"""Functions that are compiled where that is possible."""

import pytest
import torch

from ftune.rl.fused import _compiles, fused


def double(x):
    return x + x


def test_nothing_is_compiled_on_a_cpu():
    assert fused(double, "cpu") is double


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU compiles")
def test_where_compiling_fails_the_function_itself_is_used_and_the_reason_said_once():
    _compiles.cache_clear()
    with pytest.warns(UserWarning, match="kernels are not compiled.*: ."):
        assert fused(double, "cuda") is double
    assert fused(double, "cuda") is double


@pytest.mark.gpu
def test_a_gpu_compiles_once():
    compiled = fused(double, "cuda")
    assert compiled is not double
    assert fused(double, "cuda") is compiled
    x = torch.arange(4.0, device="cuda")
    assert torch.equal(compiled(x), double(x))
