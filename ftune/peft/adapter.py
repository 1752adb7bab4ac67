"""Bottleneck adapters: small networks on the sublayers of a frozen model.

Houlsby et al. (arXiv:1902.00751), Pfeiffer et al. (arXiv:2005.00247), parallel (He et al., arXiv:2110.04366), without
the lower layers (AdapterDrop, arXiv:2010.11918), of Kronecker products (Compacter, arXiv:2106.04647).
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ftune.core.errors import ModelError
from ftune.peft.base import NOTHING, Feature, Material, PeftMethod
from ftune.peft.places import modules, parts, trained
from ftune.peft.sublayers import choose_sublayers, layer_of
from ftune.peft.targets import task_type
from ftune.plan.adapter import Adapter as Planned
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

REDUCTION_FACTOR = 16.0
PARALLEL_SCALE = 4.0
"""What He et al. multiply parallel adapters with (table 6)."""

NOT_LINEAR = "adapters are not linear, so no weight can take them in; serve base and adapter, or use 'lora'"
"""Why they are not merged, alone or fused."""

Names = Literal["auto"] | Annotated[list[str], Field(min_length=1)]


class Adapter(PeftMethod):
    """h = f(x) + scale * up(activation(down(z))) for a sublayer f; `up` is zero at the start, so step 0 is the base.

    z is f(x) behind attention and feed-forward (`houlsby`) or behind the feed-forward (`pfeiffer`), and x beside the
    feed-forward (`parallel`). h goes where f(x) went: into the norm behind the sublayer where a model has one (Gemma 2
    and 3, BERT), then into the residual stream.
    """

    own_tuner: ClassVar[bool] = True
    default_learning_rate: ClassVar[float] = 5e-4

    type: Literal["adapter"] = "adapter"
    """Bottleneck adapters on sublayers."""

    style: Literal["houlsby", "pfeiffer", "parallel"] = "houlsby"
    """Where adapters sit: behind attention and feed-forward, behind feed-forward only, or beside it."""

    reduction_factor: Annotated[float, Field(ge=1)] | None = None
    """The model's hidden size divided by the width of the bottleneck; 16 unless `size` is given."""

    size: Annotated[int, Field(ge=1)] | None = None
    """Width of the bottleneck, instead of `reduction_factor`."""

    activation: Literal["gelu", "relu", "silu", "tanh"] = "gelu"
    """The non-linearity between the two projections."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout inside the bottleneck while training."""

    scale: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """What the adapter's output is multiplied by; `auto` is 4 for `parallel` and 1 for the others."""

    drop_layers: Annotated[int, Field(ge=0)] = 0
    """Leave the first layers of each stack without adapters (AdapterDrop): cheaper, and no backward pass through
    them."""

    compacter: bool = False
    """Projections as sums of Kronecker products, one factor of each shared by all layers, the other of low rank."""

    phm_dimension: Annotated[int, Field(ge=1)] = 4
    """Kronecker products in a sum (n in the Compacter paper); divides the hidden size and the bottleneck."""

    phm_rank: Annotated[int, Field(ge=1)] = 1
    """Rank of the factors that are not shared."""

    attention_modules: Names = "auto"
    """Paths below a layer of what does attention, such as `[self_attn]`; `auto` knows the usual families."""

    feed_forward_modules: Names = "auto"
    """Paths below a layer of the feed-forward, such as `[mlp]`; `auto` knows the usual families."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.size is not None and self.reduction_factor is not None:
            raise ValueError("size, reduction_factor: both say how wide the bottleneck is; remove one")
        if self.style != "houlsby" and self.attention_modules != "auto":
            raise ValueError(f"attention_modules: 'style: {self.style}' has none on attention; use 'style: houlsby'")
        if not self.compacter and (self.phm_dimension, self.phm_rank) != (4, 1):
            raise ValueError("phm_dimension, phm_rank: they are for Compacter; add 'compacter: true'")
        if self.compacter and (self.size or 0) % self.phm_dimension:
            raise ValueError(f"size: {self.size} is no multiple of 'phm_dimension', which is {self.phm_dimension}")
        return self

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with adapters on its sublayers.

        Raises ModelError when the model has no sublayers that are known or of the given names.
        """
        from peft import get_peft_model

        from ftune.peft.tuners.bottleneck.config import BottleneckConfig

        auto_scale = PARALLEL_SCALE if self.style == "parallel" else 1.0
        config = BottleneckConfig(
            task_type=task_type(model),
            target_modules=self._paths(model),
            style=self.style,
            size=self._width(model.config.get_text_config().hidden_size),
            activation=self.activation,
            dropout=self.dropout,
            scale=auto_scale if self.scale == "auto" else self.scale,
            phm_dimension=self.phm_dimension if self.compacter else None,
            phm_rank=self.phm_rank,
        )
        return get_peft_model(model, config)

    def planned(self, shape: ModelShape) -> Planned:
        """Two projections with biases for each sublayer; a Compacter's are two thin factors each, and shared ones."""
        below = modules(parts(shape))
        paths = choose_sublayers(below, "feed_forward", self.feed_forward_modules)
        if self.style == "houlsby":
            paths += choose_sublayers(below, "attention", self.attention_modules)
        hidden, width = shape.hidden, self._width(shape.hidden)
        weights = 2 * (self.phm_rank * (hidden + width) if self.compacter else hidden * width)
        kept = self._undropped(paths)
        # the input of each projection, and that of the activation
        saved = len(kept) * (hidden + 2 * width)
        counts = dict.fromkeys(kept, weights + hidden + width)
        return trained(shape, counts, shared=self.phm_dimension**3 if self.compacter else 0, saved=saved)

    def limits(self) -> dict[Feature, str]:
        """What is not linear has no place in a weight."""
        return {"merge": NOT_LINEAR}

    def _paths(self, model: "PreTrainedModel") -> list[str]:
        """Paths of the sublayers that get an adapter. Raises ModelError."""
        from torch.nn import Linear

        from ftune.peft.tuners.sublayers import find_sublayers

        paths = find_sublayers(model, "feed_forward", self.feed_forward_modules)
        if self.style == "parallel" and isinstance(model.get_submodule(paths[0]), Linear):
            raise ModelError(
                f"peft.style: 'parallel' needs the feed-forward as one module, and '{paths[0]}' is only its last "
                "projection; use 'houlsby' or 'pfeiffer'"
            )
        if self.style == "houlsby":
            paths += find_sublayers(model, "attention", self.attention_modules)
        return self._undropped(paths)

    def _undropped(self, paths: list[str]) -> list[str]:
        """Those that are not in the dropped layers. Raises ModelError when none is left."""
        kept = [path for path in paths if layer_of(path) >= self.drop_layers]
        if not kept:
            layers = 1 + max(layer_of(path) for path in paths)
            raise ModelError(f"peft.drop_layers: {self.drop_layers} leaves none of the model's {layers} layers")
        return kept

    def _width(self, hidden_size: int) -> int:
        """Width of the bottleneck; a Compacter's goes up to the next multiple of n. Raises ModelError."""
        width = self.size or max(1, round(hidden_size / (self.reduction_factor or REDUCTION_FACTOR)))
        if not self.compacter:
            return width
        if hidden_size % self.phm_dimension:
            raise ModelError(f"peft.phm_dimension: {self.phm_dimension} does not divide the hidden size {hidden_size}")
        return -(-width // self.phm_dimension) * self.phm_dimension
