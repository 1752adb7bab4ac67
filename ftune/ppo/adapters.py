"""Which adapter of a shared base is at work, changed for the length of a `with` and without other traces.

peft's own `set_adapter` and `disable_adapter` also decide what trains: a second trainable adapter is frozen by them
without a word (seen in peft 0.21). Here only the two attributes are changed that layers look at while they compute.
"""

import copy
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import nn

from ftune.core.errors import ModelError

State: TypeAlias = list[tuple[Any, bool]]
"""Of each adapted layer its active adapters, and whether all are off."""


@contextmanager
def adapter_scope(model: nn.Module, name: str | None) -> Iterator[None]:
    """Compute with the adapter of that name alone, or with the base alone for None.

    What trains stays as it is. Raises ModelError for a model without layers of adapters (virtual tokens have none),
    for an adapter that no layer has, and while adapters are merged into the base.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ModelError(
            "peft: this method puts no adapters into layers, so policy and reference cannot share one base; "
            "use 'memory: separate'"
        )
    if any(layer.merged_adapters for layer in layers):
        raise ModelError("an adapter is merged into the base, which the reference is computed with; unmerge it first")
    if name is not None and not any(name in layer._get_available_adapters() for layer in layers):
        raise ModelError(f"the model has no adapter '{name}'")
    with _state_set(layers, [([name or "default"], name is None)] * len(layers)):
        yield


def checkpoint_context(
    model: nn.Module,
) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """The `context_fn` of torch's non-reentrant checkpointing, which keeps adapters as they were in the forward pass.

    Without it activations are computed again with whichever is active when gradients are taken, and these are wrong
    without an error. Adapters that are added to the model later need a new one.
    """
    layers = adapted_layers(model)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _state_set(layers, _state_of(layers))

    return contexts


def adapted_layers(model: nn.Module) -> list[Any]:
    """The layers that hold adapters or copies of modules that train in full."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]


def add_copy(model: Any, name: str, *, trainable: bool) -> None:
    """Add to a PeftModel an adapter that is equal to `default`, frozen or training as that does."""
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    config = copy.deepcopy(model.peft_config["default"])
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = False  # PiSSA and its kin would take their start out of the base a second time
    with torch.random.fork_rng(devices=[]):
        model.add_adapter(name, config)
    parameters = dict(model.named_parameters())
    for key, value in parameters.items():
        twin = parameters.get(renamed(key, name))
        if twin is not None and twin is not value:
            twin.data = value.data.clone()
    restore_trainable(model, trained | ({renamed(key, name) for key in trained} if trainable else set()))


def restore_trainable(model: nn.Module, trained: Collection[str]) -> None:
    """After peft has added an adapter: train the parameters of these names alone, and let `default` be active."""
    for name, value in model.named_parameters():
        value.requires_grad_(name in trained)
    for layer in adapted_layers(model):
        layer._active_adapter, layer._disable_adapters = ["default"], False


def renamed(parameter: str, adapter: str) -> str:
    """The name of the policy's parameter in another adapter."""
    return re.sub(r"\.default(?=\.|$)", f".{adapter}", parameter)


def _state_of(layers: Sequence[Any]) -> State:
    return [(layer._active_adapter, layer._disable_adapters) for layer in layers]


@contextmanager
def _state_set(layers: Sequence[Any], wanted: State) -> Iterator[None]:
    before = _state_of(layers)
    try:
        _set_state(layers, wanted)
        yield
    finally:
        _set_state(layers, before)


def _set_state(layers: Sequence[Any], state: State) -> None:
    for layer, (active, disabled) in zip(layers, state, strict=True):
        layer._active_adapter, layer._disable_adapters = active, disabled
