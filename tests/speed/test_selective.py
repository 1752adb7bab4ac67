"""Selective checkpointing changes no loss and no gradient, and keeps what the plan says; compiled layers do too."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig, PretrainedConfig, Qwen3Config

from ftune.core.errors import ModelError
from ftune.plan.adapter import Adapter
from ftune.plan.families import shape_of_config
from ftune.plan.job import Job
from ftune.plan.selected import selected
from ftune.speed.attention import candidates, switch_attention
from ftune.speed.documents import NAME
from ftune.speed.flat import FlatCollator
from ftune.speed.folded import folded, watched
from ftune.speed.loss import add_places, give_loss, lossy_head
from ftune.speed.selective import selective_layers
from tests.plan import kernel_for_rows

SIZE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.1,
}
CONFIGS: dict[str, type[PretrainedConfig]] = {"llama": LlamaConfig, "qwen3": Qwen3Config}
ROWS = [[5, 9, 33, 2, 61, 17, 17, 4, 8], [40, 3, 9, 9, 21, 50, 12], [7, 7, 30]]
TOKENS = sum(map(len, ROWS))
RANK = 4

Checkpointing = Literal["off", "selective", "full"]


@dataclass(frozen=True)
class Case:
    """A model, what of it trains, and how its layers are computed."""

    family: str
    trains: Literal["all", "lora", "folded"] = "all"
    dropout: float = 0.0
    compiled: bool = False
    kernel: bool = False
    """What stands for PyTorch's kernel for variable lengths computes attention: nothing, but it keeps the same."""

    @contextmanager
    def model(self, checkpointing: Checkpointing) -> Iterator[Any]:
        """In training, with the loss and the attention of a run; one row of its own where layers are compiled."""
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(CONFIGS[self.family](**SIZE))
        if self.trains != "all":
            lora = LoraConfig(
                r=RANK,
                target_modules="all-linear",
                init_lora_weights=False,
                lora_dropout=self.dropout,
                task_type="CAUSAL_LM",
            )
            model = get_peft_model(model, lora)
        give_loss(model, lossy_head(model))
        candidates(torch.device("cpu"))
        kernel_for_rows.register()
        switch_attention(model, kernel_for_rows.NAME if self.kernel else "sdpa" if self.compiled else NAME)
        with ExitStack() as stack:
            if self.trains == "folded":
                with watched(model) as found, torch.no_grad():
                    model(**self.batch(ROWS))
                stack.enter_context(folded(model, found))
            if checkpointing == "full":
                model.gradient_checkpointing_enable({"use_reentrant": False})
            if checkpointing == "selective":
                batch = {name: value for name, value in self.batch(ROWS).items() if "loss" not in name}
                stack.enter_context(selective_layers(model, batch))
            if self.compiled:
                torch._dynamo.reset()
                for layer in model.get_decoder().layers:
                    layer.compile(backend="aot_eager_decomp_partition", dynamic=True)
            yield model.train()

    def batch(self, rows: list[list[int]]) -> dict[str, Any]:
        """Flat."""
        rows = [[token for row in rows for token in row]] if self.compiled else rows
        batch = add_places(FlatCollator(64)([{"input_ids": row, "labels": row} for row in rows]))
        del batch["labels"]
        return batch

    def run(
        self, checkpointing: Checkpointing, *, by_tokens: bool = False
    ) -> tuple[float, dict[str, torch.Tensor], int]:
        """Loss, gradients, and bytes that are held between the passes, each storage once.

        Those of tokens are told by their number, which divides no other size: a compiler keeps further numbers.
        """
        with self.model(checkpointing) as model:
            torch.manual_seed(1)
            held: dict[int, torch.UntypedStorage] = {}
            own = {one.untyped_storage().data_ptr() for one in model.parameters()}

            def keep(value: torch.Tensor) -> torch.Tensor:
                storage = value.untyped_storage()
                of_tokens = storage.nbytes() % TOKENS == 0 if by_tokens else value.dim() > 0
                if of_tokens and storage.data_ptr() not in own:
                    held[storage.data_ptr()] = storage
                return value

            gc.collect()
            before = {id(one) for one in tensors()}
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
                loss = model(**self.batch(ROWS)).loss
            for one in (
                [] if self.compiled else tensors()
            ):  # what a selective checkpoint keeps, autograd does not know of
                if id(one) not in before:
                    keep(one)
            loss.backward()
            slopes = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
            return float(loss.detach()), slopes, sum(storage.nbytes() for storage in held.values())

    @property
    def kept(self) -> int:
        """Bytes that are kept of all layers, as the plan counts them."""
        shape = shape_of_config(CONFIGS[self.family](**SIZE).to_dict())
        low_rank = tuple((linear.name, RANK) for linear in shape.layer_linears)
        adapter = Adapter(base=shape.parameters) if self.trains == "all" else Adapter(parameters=1, low_rank=low_rank)
        job = Job(shape=shape, adapter=adapter, dtype="fp32", flat=True, folded=self.trains == "folded", on_gpu=False)
        return shape.layers * TOKENS * sum(selected(job).values())


def tensors() -> list[torch.Tensor]:
    """Of numbers, that there are; a compiler has others that are none."""
    return [one for one in gc.get_objects() if type(one) is torch.Tensor and one.is_floating_point()]


PLAIN = [Case(family, trains) for family in CONFIGS for trains in ("all", "lora", "folded")]
COMPILED = [Case("qwen3", "folded", compiled=True), Case("llama", compiled=True)]
KEPT = [Case("qwen3", "folded", compiled=True, kernel=True), Case("llama", compiled=True)]


@pytest.mark.parametrize(
    "case",
    [
        *PLAIN,
        *[pytest.param(case, marks=pytest.mark.slow) for case in COMPILED],
        Case("llama", "lora", dropout=0.3),
    ],
)
def test_loss_and_gradients_are_those_without(case: Case) -> None:
    loss, slopes, _ = case.run("off")
    found, ours, _ = case.run("selective")
    assert found == pytest.approx(loss, rel=1e-6)
    assert ours.keys() == slopes.keys()
    for name, slope in slopes.items():
        assert (ours[name] - slope).norm() <= 1e-6 * slope.norm() + 1e-9, name


@pytest.mark.parametrize("case", [*PLAIN, Case("llama", kernel=True)])
def test_more_is_held_than_with_full_checkpointing_by_what_the_plan_names(case: Case) -> None:
    held = {state: case.run(state)[2] for state in ("off", "selective", "full")}
    assert held["full"] < held["selective"] < held["off"]
    assert held["selective"] - held["full"] == case.kept


@pytest.mark.slow
@pytest.mark.parametrize("case", KEPT)
def test_compiled_layers_hold_the_same(case: Case) -> None:
    held = {state: case.run(state, by_tokens=True)[2] for state in ("off", "selective")}
    assert held["selective"] < held["off"]
    full = replace(case, compiled=False).run("full", by_tokens=True)[2]
    assert held["selective"] - full == case.kept


def test_a_layer_that_is_not_trained_is_not_checkpointed() -> None:
    case = Case("llama")
    with case.model("selective") as model:
        layer = model.get_decoder().layers[0]
        assert type(layer).__mro__[1].__name__ == "LlamaDecoderLayer"
        saved = list[torch.Tensor]()
        with torch.autograd.graph.saved_tensors_hooks(lambda value: saved.append(value), lambda value: value):
            model.eval()(**case.batch(ROWS))
        assert len(saved) > 20 * len(model.get_decoder().layers)
    assert type(layer).__mro__[1].__name__ == "GradientCheckpointingLayer"


def test_one_graph_does_for_any_number_of_tokens() -> None:
    case = Case("llama", "folded", compiled=True)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with case.model("selective") as model:
        model.enable_input_require_grads()  # the first layer is like all others
        for rows in (ROWS, ROWS[:2], [*ROWS, ROWS[0]]):
            model(**case.batch(rows)).loss.backward()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 1


def refused(model: Any) -> str:
    with (
        pytest.raises(ModelError) as said,
        selective_layers(model, {"input_ids": torch.tensor([ROWS[0]])}),
    ):
        pass
    return str(said.value)


def test_layers_that_cannot_do_it_say_so() -> None:
    scores = AutoModelForCausalLM.from_config(LlamaConfig(**SIZE), attn_implementation="eager")
    assert "attention of this model is not one operation" in refused(scores)
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=96, hidden_size=64, num_hidden_layers=2))
    assert "does not say which layers it repeats" in refused(mamba) or "not one operation" in refused(mamba)
    llama: Any = AutoModelForCausalLM.from_config(LlamaConfig(**SIZE))
    adding = get_peft_model(llama, AdaLoraConfig(target_modules=["q_proj"], total_step=9, task_type="CAUSAL_LM"))
    assert "its method writes into what would be kept; set it to true" in refused(adding)
