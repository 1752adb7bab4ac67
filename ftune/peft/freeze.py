"""Selective fine-tuning: chosen parameters of the model itself train, the others are frozen."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import Field, model_validator

from ftune.core.errors import ModelError
from ftune.core.suggest import did_you_mean
from ftune.peft.base import NOTHING, Feature, Material, PeftMethod
from ftune.peft.full import WHOLE_MODEL_LIMITS
from ftune.peft.places import layer_of, parts
from ftune.peft.targets import in_head
from ftune.plan.adapter import Adapter
from ftune.plan.shape import Embedding, Linear, ModelShape, Norm

if TYPE_CHECKING:
    from torch.nn import Module, Parameter
    from transformers import PreTrainedModel

T = TypeVar("T")

Index = Annotated[int, Field(ge=0)]


class Freeze(PeftMethod):
    """Train chosen layers in fp32 and leave the rest as it was loaded; without a choice, the last two layers train.

    What `last_layers` or `layers`, `patterns`, `embeddings` and `head` choose is added up. The head of a sequence
    classification model always trains.
    """

    library: ClassVar[Literal["peft", "transformers"]] = "transformers"
    default_learning_rate: ClassVar[float] = 2e-5

    type: Literal["freeze"] = "freeze"
    """Train chosen layers of the model itself."""

    last_layers: Index | None = None
    """How many layers train, counted from the last one, in the encoder and in the decoder where there are both; 2
    unless `layers` or `patterns` are given."""

    layers: Annotated[list[Index], Field(min_length=1)] | None = None
    """Indexes of the layers that train, from 0, instead of `last_layers`."""

    patterns: Annotated[list[str], Field(min_length=1)] | None = None
    """Globs on full parameter names, such as `*.mlp.*` or `model.norm.*`; each must match a parameter. `ftune` says
    which parameters train."""

    embeddings: bool = False
    """Train the token embeddings too."""

    head: bool = False
    """Train the output head too; where it is tied to the token embeddings, both are one and train."""

    @model_validator(mode="after")
    def _something_trains(self) -> Self:
        if self.last_layers is not None and self.layers is not None:
            raise ValueError("give 'last_layers' or 'layers', not both")
        if self.last_layers == 0 and not (self.patterns or self.embeddings or self.head):
            raise ValueError("last_layers: 0 leaves nothing to train; choose 'patterns', 'embeddings' or 'head'")
        return self

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PreTrainedModel":
        """The same model, the chosen parameters trainable and in fp32; says which these are."""
        from ftune.core.say import Say

        model.requires_grad_(False)
        for parameter in self._chosen(model):
            parameter.requires_grad_(True)
            parameter.data = parameter.data.float()
        tied = model.get_output_embeddings() is not None and (
            model.get_output_embeddings().weight is model.get_input_embeddings().weight
        )
        both = tied and model.get_input_embeddings().weight.requires_grad
        note = " (embeddings and head are tied: one weight, which trains as both)" if both else ""
        Say().line(f"trains: {', '.join(trained_parts(model))}{note}")
        return model

    def limits(self) -> dict[Feature, str]:
        """What no method goes with that trains the model's own weights."""
        return WHOLE_MODEL_LIMITS

    def export(self, model: "PreTrainedModel", folder: Path) -> None:
        """Write the model in one dtype, that of its frozen weights.

        transformers loads a folder in one dtype whatever its tensors have, so the trained weights are cast to it here,
        in `model` too: it then computes what the loaded one will.
        """
        frozen = [parameter.dtype for parameter in model.parameters() if not parameter.requires_grad]
        if frozen:
            usual = max(set(frozen), key=frozen.count)
            for parameter in model.parameters():
                parameter.data = parameter.data.to(usual) if parameter.requires_grad else parameter.data
        model.save_pretrained(str(folder))

    def planned(self, shape: ModelShape) -> Adapter:
        """The chosen parameters; a weight that embeddings and head share counts once."""
        named = _parameters(shape)
        stack = list(range(shape.layers))
        layers = {_layer(stack, index) for index in self._indexes()}
        chosen = {name for name in named if any(name.startswith(f"{shape.layer_path}.{layer}.") for layer in layers)}
        chosen |= {name for pattern in self.patterns or [] for name in _matching(pattern, list(named))}
        chosen |= {f"{shape.embeddings[0].name}.weight"} if self.embeddings else set()
        chosen |= {name for name in named if in_head(name) or (self.head and name.startswith(shape.head.name))}
        shared = f"{shape.head.name}.weight"
        if shape.tied and shared in chosen:
            chosen = chosen - {shared} | {f"{shape.embeddings[0].name}.weight"}
        return Adapter(
            base=sum(named[name] for name in chosen),
            lowest_layer=min((layer_of(shape, name.rpartition(".")[0]) for name in chosen), default=0),
        )

    def _indexes(self) -> Sequence[int]:
        """Indexes of the layers that train, from the end where negative."""
        by_default = 0 if self.layers or self.patterns else 2
        last = by_default if self.last_layers is None else self.last_layers
        return self.layers or range(-last, 0)

    def _chosen(self, model: "PreTrainedModel") -> "Iterator[Parameter]":
        indexes = self._indexes()
        for stack in layer_stacks(model) if indexes else []:
            for index in indexes:
                yield from _layer(stack, index).parameters()
        named = list(model.named_parameters(remove_duplicate=False))
        by_name = dict(named)
        for pattern in self.patterns or []:
            yield from (by_name[name] for name in _matching(pattern, list(by_name)))
        if self.embeddings:
            yield from model.get_input_embeddings().parameters()
        if self.head and model.get_output_embeddings() is not None:
            yield from model.get_output_embeddings().parameters()
        yield from (parameter for name, parameter in named if in_head(name))


def layer_stacks(model: "PreTrainedModel") -> "list[list[Module]]":
    """The transformer layers from first to last; two stacks where there are an encoder and a decoder.

    They are the outermost lists of as many modules as the configuration has layers. Raises ModelError when there are
    none.
    """
    from torch.nn import ModuleList

    config = model.config.get_text_config()
    counts = {config.num_hidden_layers, getattr(config, "num_decoder_layers", None)}
    lists = {name: module for name, module in model.named_modules() if isinstance(module, ModuleList)}
    stacks = [
        list(module)
        for name, module in lists.items()
        if len(module) in counts and not any(name.startswith(f"{outer}.") for outer in lists)
    ]
    if not stacks:
        raise ModelError(
            f"peft.type: no list of layers in '{type(model).__name__}'; choose parameters by 'patterns' and set "
            "'last_layers: 0'"
        )
    return stacks


def _parameters(shape: ModelShape) -> dict[str, int]:
    """Numbers in each parameter, by its full name; a shared one has both."""
    found: dict[str, int] = {}
    for path, part in parts(shape).items():
        bias = 0 if isinstance(part, Embedding) or not part.bias else _biases(part)
        found |= {f"{path}.weight": part.parameters - bias} if part.parameters > bias else {}
        found |= {f"{path}.bias": bias} if bias else {}
    return found


def _biases(part: Linear | Norm) -> int:
    return part.outputs if isinstance(part, Linear) else part.width


def _layer(stack: list[T], index: int) -> T:
    """A layer by its index, from the end where negative. Raises ModelError when it is not there."""
    if not -len(stack) <= index < len(stack):
        asked = f"peft.layers: {index} is" if index >= 0 else f"peft.last_layers: {-index} are"
        raise ModelError(f"{asked} not there; the model has layers 0 to {len(stack) - 1}")
    return stack[index]


def trained_parts(module: "Module", name: str = "") -> list[str]:
    """Names of the largest parts that train as a whole, as globs, and of single parameters that do."""
    flags = [parameter.requires_grad for parameter in module.parameters()]
    if name and flags and all(flags):
        return [f"{name}.*"]
    if not any(flags):
        return []
    start = f"{name}." if name else ""
    single = [f"{start}{own}" for own, value in module.named_parameters(recurse=False) if value.requires_grad]
    return single + [part for child, inner in module.named_children() for part in trained_parts(inner, start + child)]


def _matching(pattern: str, names: list[str]) -> list[str]:
    """The parameters that a glob names. Raises ModelError, with the closest one, layers counted once, if it is none."""
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        shapes = {".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names}
        raise ModelError(f"peft.patterns: no parameter matches '{pattern}'{did_you_mean(pattern, shapes)}")
    return found
