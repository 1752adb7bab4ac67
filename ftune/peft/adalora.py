"""AdaLoRA (arXiv:2303.10512): ranks move during training to the layers where they matter most."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from ftune.core.errors import RecipeError
from ftune.peft.base import IN_PLACE, NOTHING, Feature, Material, PeftMethod
from ftune.peft.hook import TrainingHook
from ftune.peft.places import adapted, trained
from ftune.peft.targets import Targets, check_layers, chosen_linears, late_forward, task_type
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

Share = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(gt=0, lt=1)]


class AdaLora(PeftMethod):
    """W = W0 + (alpha / initial_rank) P diag(E) Q (equation 3): triplets of P, E and Q with little influence go.

    E is zero at the start, so step 0 is the base.
    """

    type: Literal["adalora"] = "adalora"
    """LoRA whose ranks move to the layers that need them."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Mean rank of a layer at the end: the budget is this times the number of layers."""

    initial_rank: Annotated[int, Field(ge=2)] = 12
    """Rank of every layer at the start, above `rank`; the paper takes one and a half times as much."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the update: it is multiplied by alpha / initial_rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while training."""

    target_modules: Targets = "auto"
    """Names of the linear layers to adapt; `auto` takes all of them but the output head."""

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Indexes of the decoder layers to adapt, from 0; all by default."""

    warmup: Share = 0.1
    """Share of the run's steps in which every layer keeps its initial rank (t_i in the paper)."""

    final: Share = 0.3
    """Share of the run's steps, its last ones, in which the ranks stay (t_f)."""

    every: Annotated[int, Field(ge=1)] = 10
    """Steps between two allocations; the last one is always made."""

    importance_decay: Decay = 0.85
    """Smoothing of the influence (beta 1)."""

    uncertainty_decay: Decay = 0.85
    """Smoothing of its uncertainty (beta 2)."""

    orthogonality: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the regulariser that keeps P and Q orthogonal (gamma); its terms are norms, averaged over all P and Q
    as in the authors' code."""

    @model_validator(mode="after")
    def _shrinks(self) -> Self:
        if self.initial_rank <= self.rank:
            raise ValueError(f"initial_rank: {self.initial_rank} must be above 'rank' ({self.rank}), which it falls to")
        if self.warmup + self.final >= 1:
            raise ValueError("warmup: with 'final' it leaves no step to move ranks; their sum must be below 1")
        return self

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with AdaLoRA; the schedule is set by the hook, once the steps are known."""
        from peft import AdaLoraConfig, get_peft_model

        check_layers(model, self.layers)
        config = AdaLoraConfig(
            task_type=task_type(model),
            target_r=self.rank,
            init_r=self.initial_rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=chosen_linears(model, self.target_modules),
            layers_to_transform=self.layers,
            beta1=self.importance_decay,
            beta2=self.uncertainty_decay,
            deltaT=self.every,
            orth_reg_weight=self.orthogonality,
            total_step=1,
        )
        # peft 0.21 adds the regulariser to the loss that the model returns, which trainers with a loss of their own
        # never see; the hook gives it to all of them instead
        wrapped = late_forward(get_peft_model(model, config))
        for name, parameter in wrapped.named_parameters():
            if ".ranknum." in name:  # a constant that peft 0.21 lets train on a GPU, and does not save
                parameter.requires_grad_(False)
        return wrapped

    def planned(self, shape: ModelShape) -> Adapter:
        """Triplets of P, E and Q at their initial rank: those that go later keep their places."""
        linears = adapted(shape, self.target_modules, self.layers)
        counts = {path: self.initial_rank * (linear.inputs + linear.outputs + 1) for path, linear in linears.items()}
        return trained(shape, counts, widths=dict.fromkeys(linears, self.initial_rank))

    def export(self, model: "PreTrainedModel | PeftModel", folder: Path) -> None:
        """The triplets that are left; a layer that has none keeps one whose E is zero, as no tensor may be empty."""
        for kept in (model.peft_config["default"].rank_pattern or {}).values():
            kept[0] = kept[0] or not any(kept)
        super().export(model, folder)

    def limits(self) -> dict[Feature, str]:
        """Backends that cut up what the rank allocator looks at, and what keeps products that peft adds to in place."""
        reason = "it ranks triplets by whole parameters and gradients, and processes hold parts; use 'backend: ddp'"
        limits: dict[Feature, str] = dict.fromkeys(("zero", "zero3", "fsdp"), reason)
        return limits | {"selective_checkpointing": IN_PLACE}

    def hook(self, model: "PeftModel") -> TrainingHook:
        """The rank allocator and the regulariser."""
        return RankHook(model, self.warmup, self.final, self.orthogonality)


class RankHook(TrainingHook):
    """Lets peft's rank allocator act at every step, on a schedule made for the run's own number of steps."""

    def __init__(self, model: "PeftModel", warmup: float, final: float, orthogonality: float) -> None:
        self.tuner, self.config = model.base_model, model.peft_config["default"]
        self.allocator = self.tuner.rankallocator
        self.warmup, self.final, self.orthogonality = warmup, final, orthogonality

    def begin(self, steps: int) -> None:
        """Set the schedule. Raises RecipeError when no step is left between warm-up and final phase."""
        warmup, final = int(self.warmup * steps), int(self.final * steps)
        if steps - final - warmup < 1:
            raise RecipeError(f"schedule: {steps} steps are too few for AdaLoRA's warm-up, allocation and final phase")
        self.config.total_step, self.config.tinit, self.config.tfinal = steps, warmup, final

    def regulariser(self) -> "Tensor | None":
        """Gamma times the mean of |P^T P - I| and |Q Q^T - I| (equation 4), layers of one shape at once."""
        import torch

        if not self.orthogonality:
            return None
        grams: dict[int, list[Tensor]] = {}
        for name, parameter in self.tuner.named_parameters():
            if ".lora_A." in name:
                grams.setdefault(parameter.shape[0], []).append(parameter @ parameter.T)
            elif ".lora_B." in name:
                grams.setdefault(parameter.shape[1], []).append(parameter.T @ parameter)
        norms = []
        for rank, of_rank in grams.items():
            stacked = torch.stack(of_rank)
            norms.append((stacked - torch.eye(rank, device=stacked.device)).flatten(1).norm(dim=1))
        return self.orthogonality * torch.cat(norms).mean()

    def after_step(self, step: int) -> dict[str, object]:
        """Update the influences and, when it is time, the ranks; the ranks of all layers when they moved."""
        last = self.config.total_step - self.config.tfinal
        missed = step > last and self.allocator.ipt  # the last allocation fell on a step that was skipped
        before = self.config.rank_pattern
        self.tuner.update_and_allocate(last if missed else step)
        pattern = self.config.rank_pattern
        if pattern is None or pattern is before:
            return {}
        ranks = {_layer_name(name): sum(kept) for name, kept in pattern.items()}
        return {"total_rank": sum(ranks.values()), "ranks": ranks}

    def state(self) -> "dict[str, Tensor]":
        """The smoothed influences and which triplets are kept."""
        import torch

        averages = {"ipt": self.allocator.ipt, "avg": self.allocator.exp_avg_ipt, "unc": self.allocator.exp_avg_unc}
        found = {f"{kind}.{name}": value for kind, values in averages.items() for name, value in values.items()}
        pattern = self.config.rank_pattern or {}
        return found | {f"kept.{name}": torch.tensor(kept) for name, kept in pattern.items()}

    def restore(self, state: "dict[str, Tensor]") -> None:
        """Go on from a `state()`."""
        device = next(self.tuner.parameters()).device
        self.allocator.reset_ipt()
        into = {"ipt": self.allocator.ipt, "avg": self.allocator.exp_avg_ipt, "unc": self.allocator.exp_avg_unc}
        kept = {}
        for key, value in state.items():
            kind, _, name = key.partition(".")
            if kind == "kept":
                kept[name] = value.tolist()
            else:
                into[kind][name] = value.to(device)
        self.config.rank_pattern = kept or None


def _layer_name(parameter: str) -> str:
    """`layers.0.mlp.up_proj` for `model.model.layers.0.mlp.up_proj.lora_E.default`."""
    return parameter.partition(".lora_E")[0].removeprefix("model.").removeprefix("model.")
