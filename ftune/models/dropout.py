"""A model without dropout, for comparisons of what it says with what it says elsewhere."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module


def without_dropout(model: "Module") -> None:
    """Set every probability of dropout to 0, in modules and in attributes that layers hand to functions."""
    from torch.nn.modules.dropout import _DropoutNd

    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
