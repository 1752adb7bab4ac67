"""LoRA (arXiv:2106.09685): the update of a weight is the product of two thin matrices."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from ftune.peft.base import NOTHING, Feature, Material, PeftMethod
from ftune.peft.places import adapted, linears, trained, value_at
from ftune.peft.targets import (
    Targets,
    check_layers,
    check_modules,
    check_patterns,
    chosen_linears,
    find_patterns,
    in_fp32,
    task_type,
)
from ftune.plan.adapter import Adapter
from ftune.plan.shape import Linear, ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Init = Literal["default", "gaussian", "orthogonal", "pissa", "olora", "eva", "loftq"]
PEFT_NAMES: dict[Init, bool | str] = {"default": True, "pissa": "pissa_niter_16", "loftq": True}
"""What peft calls an initialisation, where its name is another one; LoftQ's comes afterwards."""

Rank = Annotated[int, Field(ge=1)]


class Lora(PeftMethod):
    """h = W0 x + (alpha / rank) B A x (equation 3), with A Gaussian and B zero at the start, so step 0 is the base."""

    type: Literal["lora"] = "lora"
    """Low-rank adapters beside linear layers."""

    rank: Rank = 16
    """Rank of the update."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the update: it is multiplied by alpha / rank, or by alpha / sqrt(rank) with `rslora`."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while training."""

    target_modules: Targets = "auto"
    """Names of the linear layers to adapt, such as `[q_proj, v_proj]`; `auto` takes all of them but the output head."""

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Indexes of the decoder layers to adapt, from 0; all by default. Layers below the lowest one cost no backward
    pass."""

    rank_pattern: dict[str, Rank] = Field(default_factory=dict)
    """Other ranks for some layers: the end of a layer's name, or a regular expression for it, and its rank, as in
    `{down_proj: 32}`."""

    modules_to_save: list[str] = Field(default_factory=list)
    """Modules that train in full and are saved with the adapter, such as `[embed_tokens, lm_head]`."""

    init: Init = "default"
    """Start of A and B. `default`: A Kaiming uniform, B zero; `gaussian`: A normal, B zero; `orthogonal`: the halves of
    an orthogonal basis, whose product is zero; `pissa` (arXiv:2404.02948) and `olora` (arXiv:2406.01775): the weight's
    principal components, by SVD or QR, which the base then lacks; `eva` (arXiv:2410.07170): A from the rows'
    activations, and ranks where they explain most; `loftq` (arXiv:2310.08659): what NF4 lost of the weight."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank) (arXiv:2312.03732), so that large ranks keep learning."""

    dora: bool = False
    """Train magnitude and direction apart (arXiv:2402.09353)."""

    loraplus_ratio: Annotated[float, Field(ge=1)] = 1.0
    """LoRA+ (arXiv:2402.12354): the learning rate of B is that of A times this; the paper proposes 16."""

    @model_validator(mode="after")
    def _init_fits(self) -> Self:
        if self.init == "orthogonal" and any(rank % 2 for rank in (self.rank, *self.rank_pattern.values())):
            raise ValueError("init: 'orthogonal' splits a basis in halves, so every rank must be even")
        if self.init in ("eva", "loftq") and self.dora:
            raise ValueError(f"dora: DoRA's magnitudes are taken before '{self.init}' sets A and B; use another init")
        if self.init == "eva" and self.rank_pattern:
            raise ValueError("rank_pattern: 'init: eva' chooses the ranks itself; remove one of both")
        return self

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with LoRA on the target modules."""
        from peft import EvaConfig, LoraConfig, get_peft_model

        from ftune.peft.lora_init import init_eva, init_loftq, remember_start

        check_layers(model, self.layers)
        targets = chosen_linears(model, self.target_modules)
        check_patterns(model, "rank_pattern", self.rank_pattern)
        check_modules(model, self.modules_to_save)
        config = LoraConfig(
            task_type=task_type(model),
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            layers_to_transform=self.layers,
            rank_pattern=dict(self.rank_pattern),
            modules_to_save=list(self.modules_to_save) or None,
            init_lora_weights=PEFT_NAMES.get(self.init, self.init),
            eva_config=EvaConfig() if self.init == "eva" else None,
            use_rslora=self.rslora,
            use_dora=self.dora,
        )
        wrapped = get_peft_model(model, config)
        if self.init == "eva":
            init_eva(wrapped, material.rows)
        elif self.init == "loftq":
            init_loftq(wrapped, material.located)
        elif self.init in ("pissa", "olora"):
            remember_start(wrapped)
        return in_fp32(wrapped)

    def planned(self, shape: ModelShape) -> Adapter:
        """Rank x (inputs + outputs) for each layer, and its outputs once more for DoRA's magnitudes.

        EVA gives the same sum of ranks to the layers where they explain most, at most twice `rank` to one (peft 0.21,
        rho); which these are depends on the rows, so the widest are assumed.
        """
        found = adapted(shape, self.target_modules, self.layers, self.modules_to_save)
        find_patterns(list(linears(shape)), "rank_pattern", self.rank_pattern)
        ranks = {path: value_at(path, self.rank_pattern, self.rank) for path in found}
        if self.init == "eva":
            widest = sorted(found, key=lambda path: found[path].inputs + found[path].outputs, reverse=True)
            total = sum(ranks.values())
            ranks = {
                path: max(0, min(2 * self.rank, total - 2 * self.rank * place)) for place, path in enumerate(widest)
            }
        counts = {
            path: ranks[path] * (linear.inputs + linear.outputs) + self.dora * linear.outputs
            for path, linear in found.items()
        }
        # for the magnitude's gradient: what the base and the update give, as seen in peft 0.21
        outputs = 2 * self.dora * sum(linear.outputs for linear in found.values())
        planned = trained(shape, counts, widths=ranks, modules_to_save=self.modules_to_save, saved=outputs)
        return _with_norms(planned, found.values()) if self.dora else planned

    def limits(self) -> dict[Feature, str]:
        """What peft 0.21 cannot compute on packed integers, and LoftQ, which needs them."""
        way_out = "use 'model.quantization: none' or 'init: default'"
        if self.init in ("pissa", "olora", "orthogonal"):
            reason = f"'init: {self.init}' needs the weights themselves, not quantised ones; {way_out}"
            return {"nf4": reason, "int8": reason}
        if self.init == "loftq":
            reason = "'init: loftq' makes good what NF4 loses; use 'model.quantization: nf4' or another init"
            return {"unquantized": reason, "int8": reason, "step_zero": "it starts nearer to the unquantised model"}
        if self.init == "eva":
            return {"encoder_decoder": "'init: eva' looks at rows without answers of their own; use another init"}
        if self.dora:
            return {"int8": "DoRA does not work on int8 weights; use 'model.quantization: nf4' or no DoRA"}
        return {}

    def learning_rate_factor(self, parameter: str) -> float:
        """LoRA+: B learns faster than A."""
        return self.loraplus_ratio if ".lora_B." in parameter else 1.0

    def export(self, model: "PreTrainedModel | PeftModel", folder: Path) -> None:
        """A plain LoRA adapter for the untouched base, whatever the initialisation took out of it."""
        from ftune.peft.lora_init import export_update

        super().export(model, folder)
        if self.init in ("pissa", "olora"):
            export_update(model, folder)


def _with_norms(planned: Adapter, found: Iterable[Linear]) -> Adapter:
    """With what comes and goes while DoRA (arXiv:2402.09353) takes the norms of an adapted weight.

    peft 0.21 puts an identity as wide as the inputs, in fp32, through A and B: it stands beside autocast's copy and the
    product when that is made.
    """
    widest = max(found, key=lambda linear: linear.inputs)
    square = widest.inputs**2
    return replace(planned, passing=square + widest.weights, passing_fp32=square)
