"""BitFit (arXiv:2106.10199): only the bias terms train."""

from typing import TYPE_CHECKING, ClassVar, Literal

from ftune.core.errors import ModelError
from ftune.core.suggest import did_you_mean
from ftune.peft.base import NOTHING, Material, PeftMethod
from ftune.peft.places import linears, parts, trained
from ftune.peft.targets import Targets, in_head, linear_names, task_type
from ftune.plan.adapter import Adapter
from ftune.plan.shape import Embedding, Linear, ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class BitFit(PeftMethod):
    """y = W x + b0 + b, where only b trains (section 3, where b0 + b is the bias); b is zero at the start.

    All biases train, of linear layers and of norms, but that of the output head. Only the b are saved.
    """

    own_tuner: ClassVar[bool] = True
    default_learning_rate: ClassVar[float] = 1e-3

    type: Literal["bitfit"] = "bitfit"
    """Biases alone, BitFit."""

    add: bool = False
    """Give linear layers that have no bias one of zeros; needed by models without biases, such as Llama and Qwen3."""

    target_modules: Targets = "auto"
    """Names of the modules whose bias trains, such as `[query, q_proj]`; `auto` takes all that have one, and with `add`
    all linear layers, but never the output head."""

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with trained biases; ModelError when it has none and `add` is off."""
        from peft import get_peft_model

        import ftune.peft.tuners  # noqa: F401 - makes the tuner known to peft
        from ftune.peft.tuners.bias.config import BiasConfig

        paths = self._paths(biased_names(model), linear_names(model), type(model).__name__)
        return get_peft_model(model, BiasConfig(task_type=task_type(model), target_modules=paths))

    def planned(self, shape: ModelShape) -> Adapter:
        """One number for each output of a linear layer, or value of a norm."""
        found = {path: part for path, part in parts(shape).items() if not isinstance(part, Embedding)}
        biased = [path for path, part in found.items() if part.bias and part is not shape.head]
        paths = self._paths(biased, list(linears(shape)), shape.family)
        widths = {path: part.outputs if isinstance(part, Linear) else part.width for path, part in found.items()}
        return trained(shape, {path: widths[path] for path in paths})

    def _paths(self, biased: list[str], linear: list[str], model: str) -> list[str]:
        """Names of the modules whose bias trains. Raises ModelError."""
        paths = [*dict.fromkeys([*biased, *linear])] if self.add else biased
        if not paths:
            raise ModelError(
                f"peft.type: '{model}' has no biases to train; 'add: true' gives its linear layers "
                "biases of zeros, which then train"
            )
        if self.target_modules == "auto":
            return paths
        for name in self.target_modules:
            if not _named(paths, name):
                without = f"; 'add: true' gives '{name}' one" if _named(linear, name) else ""
                hint = without or did_you_mean(name, {path.rpartition(".")[2] for path in paths})
                raise ModelError(f"peft.target_modules: no module '{name}' with a bias{hint}")
        return [path for name in self.target_modules for path in _named(paths, name)]


def biased_names(model: "PreTrainedModel") -> list[str]:
    """Dotted names of the linear layers and norms with a bias, without heads."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()  # TRL computes the loss past its module, by weight and bias alone
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm | Conv1D)
        and module.bias is not None
        and module is not head
        and not in_head(name)
    ]


def _named(paths: list[str], name: str) -> list[str]:
    return [path for path in paths if path == name or path.endswith(f".{name}")]
