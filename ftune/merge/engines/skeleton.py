"""A model with all its modules and shapes whose weights take no memory."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from ftune.core.errors import ModelError


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model on the CPU; every parameter is one zero that is repeated over its whole shape.

    Tied parameters are parameters of their own, since an adapter may change one of them and not the other. They are in
    fp32, so that adapters are in fp32 too.
    """

    model: Any
    names: tuple[str, ...]
    """Of its parameters; peft will change them in the model."""
    ties: dict[str, str]
    """Parameters that are the same as another one: by their names, the other's."""
    prefix: str
    """Of the names of what lies below the head."""
    classifier: bool


def skeleton(config: PreTrainedConfig, classes: Sequence[str] = (), *, trust_remote_code: bool = False) -> Skeleton:
    """The model of a configuration; with `classes` it has the head of a classifier.

    Raises ModelError for a kind of model that has no such class.
    """
    kind: Any = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
    if classes:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: number for number, name in enumerate(classes)}
    try:
        with torch.device("meta"), quiet_initialisation():
            model: PreTrainedModel = kind.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        wanted = "classifier" if classes else "causal language model"
        raise ModelError(
            f"{config.name_or_path}: a model of type '{config.model_type}' is no {wanted}, and only those are merged; "
            "peft's merge_and_unload takes others"
        ) from None
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, placeholder(parameter.shape))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.zeros((), dtype=buffer.dtype).expand(buffer.shape)
    names = tuple(name for name, _ in model.named_parameters())
    ties = dict(getattr(model, "all_tied_weights_keys", None) or {})
    return Skeleton(model.eval(), names, ties, model.base_model_prefix, bool(classes))


def placeholder(shape: Sequence[int]) -> nn.Parameter:
    """A parameter of this shape that takes the memory of one value."""
    return nn.Parameter(torch.zeros(()).expand(tuple(shape)), requires_grad=False)


def is_placeholder(parameter: torch.Tensor) -> bool:
    """Whether nothing has been put in its place."""
    return parameter.numel() > 1 and parameter.untyped_storage().nbytes() < parameter.numel() * parameter.element_size()


@contextlib.contextmanager
def quiet_initialisation() -> Iterator[None]:
    """Without the draws that fill a model which is then given its weights."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield
