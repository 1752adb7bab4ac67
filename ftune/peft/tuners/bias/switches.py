"""Which switches of a model's config give its linear layers biases, found by building the architecture with them."""

from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, combinations

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ftune.core.errors import ModelError
from ftune.peft.tuners.bias.layer import BiasLayer, zero_bias


@dataclass(frozen=True, slots=True)
class Switched:
    """Switches to turn on, and the modules that then have a bias."""

    names: tuple[str, ...]
    paths: set[str]

    def apply(self, model: PreTrainedModel) -> None:
        """Turn them on, and give a bias of zeros to the modules that have none yet, so that all of them are saved."""
        for name in self.names:
            setattr(model.config, name, True)
        for path in self.paths:
            module = model.get_submodule(path)
            if module.bias is None:
                zero_bias(module)


def switched_for(model: PreTrainedModel, made: set[str]) -> Switched:
    """The fewest switches of the config with which the architecture has biases on `made` and on what has one now.

    Raises ModelError when no combination of them has.
    """
    wanted = made | {
        path for path, module in model.named_modules() if isinstance(module, BiasLayer) and module.had_bias
    }
    switches = [name for name, value in model.config.to_dict().items() if "bias" in name and value is False]
    counts = range(1, len(switches) + 1)
    for names in chain.from_iterable(combinations(switches, count) for count in counts):
        paths = _biased(type(model), model.config, names)
        if wanted <= paths:
            return Switched(names, paths)
    raise ModelError(
        f"'{type(model).__name__}' cannot hold a bias on {min(made)}: its config has no switch for it, so a merged "
        "model could not be loaded again; keep the adapter beside the base"
    )


def _biased(architecture: type[PreTrainedModel], config: PreTrainedConfig, names: tuple[str, ...]) -> set[str]:
    """Paths of the modules with a bias when these switches are on; nothing is allocated."""
    changed = deepcopy(config)
    for name in names:
        setattr(changed, name, True)
    with torch.device("meta"):
        model: nn.Module = architecture(changed)
    return {path for path, module in model.named_modules() if getattr(module, "bias", None) is not None}
