"""(IA)3 (arXiv:2205.05638): keys, values and inner activations are multiplied by trained vectors."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from ftune.core.errors import ModelError
from ftune.peft.base import NOTHING, Material, PeftMethod
from ftune.peft.places import adapted, linears, trained
from ftune.peft.targets import Targets, chosen_linears, linear_names, task_type
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

KEYS = ("k_proj", "key_proj", "k_lin", "key", "k")
VALUES = ("v_proj", "value_proj", "v_lin", "value", "v")
FEEDFORWARD = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "output.dense", "fc_out", "fc2", "lin2", "w2", "wo")
"""Ends of the names that the families of transformers give to these layers; a feed-forward's is its last one, whose
input is the inner activation."""

NO_FEEDFORWARD = ("attention.output.dense",)
"""BERT's attention ends in a name that its feed-forward has too."""

FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "attn_qkv")
"""Layers that compute queries, keys and values in one."""


class Ia3(PeftMethod):
    """softmax(Q (l_k * K)^T / sqrt(d)) (l_v * V), and (l_ff * f(W1 x)) W2 (section 3.3).

    Each l is a trained vector of ones at the start, so step 0 is the base.
    """

    default_learning_rate: ClassVar[float] = 3e-3

    type: Literal["ia3"] = "ia3"
    """Trained scalings of keys, values and feed-forward layers, (IA)3."""

    target_modules: Targets = "auto"
    """Names of the linear layers to scale; `auto` takes key and value projections and the last feed-forward layer."""

    feedforward_modules: Literal["auto"] | list[str] = "auto"
    """Those of the target modules whose input is scaled instead of their output; `auto` knows the usual names, such as
    `down_proj` and `wo`."""

    @model_validator(mode="after")
    def _inputs_of_targets(self) -> Self:
        if self.target_modules != "auto" and self.feedforward_modules != "auto":
            for name in self.feedforward_modules:
                if name not in self.target_modules:
                    raise ValueError(f"feedforward_modules: '{name}' is not in target_modules; add it there too")
        return self

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with (IA)3; ModelError where queries, keys and values are one layer."""
        from peft import IA3Config, get_peft_model
        from transformers.pytorch_utils import Conv1D

        targets, feedforward = self._modules(linear_names(model))
        config = IA3Config(
            task_type=task_type(model),
            target_modules=chosen_linears(model, targets),
            feedforward_modules=chosen_linears(model, feedforward),
            exclude_modules=(self.target_modules == "auto" and _found(linear_names(model), NO_FEEDFORWARD)) or None,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        )
        return get_peft_model(model, config)

    def planned(self, shape: ModelShape) -> Adapter:
        """As many numbers as a scaled layer has outputs, or inputs where these are scaled."""
        targets, feedforward = self._modules(list(linears(shape)))
        excluded = NO_FEEDFORWARD if self.target_modules == "auto" else ()
        counts = {
            path: linear.inputs if path.endswith(tuple(feedforward)) else linear.outputs
            for path, linear in adapted(shape, targets).items()
            if not _ends(path, excluded)
        }
        # each vector's gradient needs what it scales: outputs as they are, inputs as peft 0.21 casts them, to fp32
        inputs = sum(count for path, count in counts.items() if path.endswith(tuple(feedforward)))
        return trained(shape, counts, saved=sum(counts.values()) - inputs, saved_fp32=inputs)

    def _modules(self, paths: list[str]) -> tuple[list[str], list[str]]:
        """Names of the layers to scale, and which of them at their input."""
        auto = self.feedforward_modules == "auto"
        if self.target_modules != "auto":
            inputs = [name for name in self.target_modules if _ends(name, FEEDFORWARD)]
            _refuse_fused(self.target_modules, paths)
            return self.target_modules, inputs if auto else list(self.feedforward_modules)
        _refuse_fused(paths, paths)
        found = [_found(paths, ends) for ends in (KEYS, VALUES)]
        feedforward = _found(paths, FEEDFORWARD) if auto else list(self.feedforward_modules)
        if not all((*found, feedforward)):
            leaves = ", ".join(sorted({path.rpartition(".")[2] for path in paths}))
            raise ModelError(
                "peft.target_modules: no key, value and feed-forward layers of a usual name; name them in "
                f"'target_modules', and the feed-forward's last one in 'feedforward_modules' too; known: {leaves}"
            )
        return [*dict.fromkeys([*found[0], *found[1], *feedforward])], feedforward


def _ends(path: str, ends: Iterable[str]) -> bool:
    return any(path == end or path.endswith(f".{end}") for end in ends)


def _found(paths: list[str], ends: Iterable[str]) -> list[str]:
    """Those of `ends` that a layer's name has."""
    return [end for end in ends if any(_ends(path, [end]) for path in paths)]


def _refuse_fused(names: Iterable[str], paths: list[str]) -> None:
    """Raises ModelError when one of `names` is a layer of queries, keys and values in one."""
    for name in names:
        if _ends(name, FUSED):
            fused, feedforward = name.rpartition(".")[2], ", ".join(_found(paths, FEEDFORWARD))
            alone = f", or scale the feed-forward alone with 'target_modules: [{feedforward}]'" if feedforward else ""
            raise ModelError(
                f"peft.type: '{fused}' computes queries, keys and values in one, where (IA)3 cannot scale keys and "
                f"values alone; (IA)3 on fused layers is refused: use 'peft: lora'{alone}"
            )
