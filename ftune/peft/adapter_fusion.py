"""AdapterFusion (arXiv:2005.00247): several trained bottleneck adapters, combined by attention."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ftune.core.errors import ModelError
from ftune.core.paths import expanded
from ftune.core.section import Location
from ftune.peft.adapter import NOT_LINEAR
from ftune.peft.base import NOTHING, Feature, Material, PeftMethod
from ftune.peft.places import modules, parts, trained
from ftune.peft.targets import task_type
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class AdapterFusion(PeftMethod):
    """h = f(x) + sum_n softmax_n(Q f(x) . K z_n) V z_n, where z_n is what adapter n adds to the sublayer f.

    The adapters are frozen; Q, K and V of each sublayer train. V starts near the identity, so a run starts from about
    the mean of the adapters. The result holds the adapters too.
    """

    own_tuner: ClassVar[bool] = True
    default_learning_rate: ClassVar[float] = 5e-5

    type: Literal["adapter_fusion"] = "adapter_fusion"
    """Attention over trained adapters."""

    adapters: Annotated[list[str], Field(min_length=2)]
    """Folders of runs with `peft: adapter`, or of their adapters, all of one style and on one base model."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A folder without an adapter, or with one of another kind."""
        for index, name in enumerate(self.adapters):
            folder = _adapter_folder(name)
            if not all((folder / file).is_file() for file in (CONFIG, WEIGHTS)):
                yield (
                    ("adapters", index),
                    f"no adapter in '{name}'; name a run folder with 'adapter' in it, or that one",
                )
            elif (kind := _kind(folder)) != "BOTTLENECK":
                yield ("adapters", index), f"'{name}' holds '{kind.lower()}'; only adapters of 'peft: adapter' fuse"

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with the adapters on it, and attention over them.

        Raises ModelError when the adapters do not go together, or do not fit the model.
        """
        from peft import get_peft_model

        from ftune.peft.tuners.fusion.adapters import fill, read_adapters
        from ftune.peft.tuners.fusion.config import FusionConfig

        configs, weights = read_adapters([_adapter_folder(name) for name in self.adapters])
        places = [path for path, _ in model.named_modules() if path in weights[0]]
        _check_fit(model, places, weights[0])
        wrapped = get_peft_model(
            model,
            FusionConfig(
                task_type=task_type(model),
                target_modules=places,
                style=configs[0].style,
                sizes=[config.size for config in configs],
                activations=[config.activation for config in configs],
                scales=[config.scale for config in configs],
            ),
        )
        fill(model, weights)
        return wrapped

    def planned(self, shape: ModelShape) -> Adapter:
        """Q and K with biases and V for each sublayer; the adapters, whose files are looked at, are frozen."""
        sizes = [_sizes(_adapter_folder(name)) for name in self.adapters]
        places = [path for path in modules(parts(shape)) if path in sizes[0]]
        if not places:
            raise ModelError(
                f"peft.adapters: the model has no '{min(sizes[0])}'; they were trained on another base model"
            )
        d, fused = shape.hidden, len(self.adapters)
        return trained(
            shape,
            dict.fromkeys(places, 3 * d * d + 2 * d),
            frozen=sum(size[path] for size in sizes for path in places),
            # what Q, K and V read, what they give, and the weights
            saved=len(places) * (d + fused * d + (1 + 2 * fused) * d + fused),
        )

    def limits(self) -> dict[Feature, str]:
        """The adapters act at once, and what is not linear has no place in a weight."""
        return {
            "step_zero": "the fused adapters act from the first step; start from one of them, or use 'adapter'",
            "merge": NOT_LINEAR,
        }


def _adapter_folder(name: str) -> Path:
    """The folder of an adapter itself, for that of a run too."""
    folder = expanded(name)
    return folder / "adapter" if (folder / "adapter" / CONFIG).is_file() else folder


def _sizes(folder: Path) -> dict[str, int]:
    """Numbers of a saved adapter by sublayer, from the header of its file. Raises ModelError when it has none.

    A Compacter's are those that its factors multiply out to.
    """
    path = folder / WEIGHTS
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (OSError, ValueError) as error:
        raise ModelError(f"peft.adapters: cannot read '{path}': {error}") from error
    widths: dict[str, dict[str, int]] = {}
    for key, about in header.items():
        if match := re.fullmatch(r"base_model\.model\.(.+)\.bottleneck_adapters\.(down|up)\.bias", key):
            widths.setdefault(match[1], {})[match[2]] = about["shape"][0]
    return {place: 2 * size["down"] * size["up"] + size["down"] + size["up"] for place, size in widths.items()}


def _kind(folder: Path) -> str:
    """What an adapter says that it is."""
    try:
        return str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["peft_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return "a broken adapter_config.json"


def _check_fit(model: "PreTrainedModel", places: list[str], weights: "dict[str, dict[str, Tensor]]") -> None:
    """Raises ModelError when the adapters have nowhere to go, or another hidden size."""
    if not places:
        raise ModelError(f"peft.adapters: the model has no '{min(weights)}'; they were trained on another base model")
    found, wanted = weights[places[0]]["up.bias"].numel(), model.config.get_text_config().hidden_size
    if found != wanted:
        raise ModelError(f"peft.adapters: they are for a hidden size of {found}, and the model's is {wanted}")
