"""PyTorch's kernels for variable lengths against attention a row at a time; on a CPU, what they refuse."""

import pytest
import torch

from ftune.speed.documents import rows_attention
from ftune.speed.extras import UnsupportedError
from ftune.speed.varlen import varlen_attention

LENGTHS = [70, 1, 0, 300, 129]
BORDERS = torch.tensor([0, *LENGTHS]).cumsum(0).int()


def inputs(device, dtype, width=64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, sum(LENGTHS), width) for heads in (4, 2, 2)]
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_and_gradients_are_those_of_each_row_alone(dtype, window):
    given = inputs("cuda", dtype)
    wide = [one.detach().float().requires_grad_() for one in given]
    asked = {"scaling": 0.2, "sliding_window": window, "cu_seq_lens_q": BORDERS.cuda(), "max_length_q": 300}
    module = torch.nn.Identity()
    found, expected = (
        attend(module, *on, None, **asked)[0] for attend, on in ((varlen_attention, given), (rows_attention, wide))
    )
    slopes = [torch.autograd.grad(out.float().square().sum(), on) for out, on in ((found, given), (expected, wide))]
    for one, other in zip((found, *slopes[0]), (expected, *slopes[1]), strict=True):
        assert (one.float() - other).norm() <= 0.02 * other.norm()


@pytest.mark.parametrize(
    ("dtype", "width", "asked", "why"),
    [
        (torch.float32, 64, {}, "products are in torch.float32"),
        (torch.bfloat16, 288, {}, "heads are wider than 256"),
        (torch.bfloat16, 64, {"dropout": 0.1}, "has dropout"),
        (torch.bfloat16, 64, {"softcap": 30.0}, "caps its scores"),
    ],
)
def test_what_the_kernels_do_not_compute_is_refused(dtype, width, asked, why):
    with pytest.raises(UnsupportedError, match=why):
        varlen_attention(torch.nn.Identity(), *inputs("cpu", dtype, width), None, cu_seq_lens_q=BORDERS, **asked)
