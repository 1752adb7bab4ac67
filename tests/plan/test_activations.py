"""What layers keep for the backward pass: the formulas against the tensors that autograd really saves."""

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ftune.plan.activations import last_norm, made_mask, saved
from ftune.plan.adapter import Adapter
from ftune.plan.families import shape_of_config
from ftune.plan.job import Job, Spread
from ftune.speed.documents import NAME, rows_attention
from ftune.speed.flat import borders_of
from ftune.speed.folded import folded, watched
from ftune.speed.fp8 import fp8_products
from tests.plan import kernel_for_rows

ROWS, TOKENS, RANK = 3, 37, 4
"""No width of the models is a multiple of 37: so tensors of tokens are told from those of weights."""

LENGTHS = (TOKENS, 2 * TOKENS)
"""Of rows in a flat batch, which has as many tokens as one with padding."""

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "vocab_size": 96,
    "tie_word_embeddings": False,
}
QWEN3 = {**LLAMA, "model_type": "qwen3", "head_dim": 32}
PHI3 = {**LLAMA, "model_type": "phi3", "pad_token_id": 0, "eos_token_id": 1}

GEMMA2 = {**LLAMA, "model_type": "gemma2", "head_dim": 32, "pad_token_id": 0}
GEMMA3 = {**GEMMA2, "model_type": "gemma3_text"}
NO_DROPOUT = {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "dropout": 0.0}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "vocab_size": 96,
    "n_positions": 128,
    **NO_DROPOUT,
}
BLOOM = {"model_type": "bloom", "hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 96}
OPT = {
    "model_type": "opt",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 160,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    **NO_DROPOUT,
}

Trains = Literal["all", "lora", "prompt"]


@dataclass(frozen=True)
class Case:
    """A model, what of it trains, and how it computes."""

    config: dict[str, Any]
    trains: Trains
    attention: Literal["sdpa", "eager"] = "sdpa"
    padded: bool = False
    products: Literal["bf16", "fp32"] = "bf16"
    flat: bool = False
    """Rows of other lengths are laid end to end, and attention is computed a row at a time, as on a CPU."""
    on_gpu: bool = False
    """Flat rows have one attention, by what stands for a kernel."""
    compiled: bool = False
    """Layers are, as inductor divides them into forward and backward passes."""
    folded: bool = False
    """Adapters are in the products of their layers."""
    fp8: bool = False
    """Products are in FP8, by PyTorch's own for CPUs."""
    zero: bool = False
    """Weights and adapters are in the dtype of products, as DeepSpeed and FSDP2 make them."""

    @property
    def job(self) -> Job:
        """The same for the arithmetic."""
        shape = shape_of_config(self.config)
        low_rank = tuple((linear.name, RANK) for linear in shape.layer_linears)
        adapter = {
            "all": Adapter(base=shape.parameters),
            "lora": Adapter(parameters=1, low_rank=low_rank),
            "prompt": Adapter(parameters=1, virtual_tokens=1),
        }[self.trains]
        return Job(
            shape=shape,
            adapter=adapter,
            dtype=self.products,
            micro_batch_size=len(LENGTHS) if self.flat else ROWS,
            tokens=max(LENGTHS) if self.flat else TOKENS - adapter.virtual_tokens,
            most_tokens=sum(LENGTHS),
            flat=self.flat,
            on_gpu=self.on_gpu,
            compiled=self.compiled,
            fp8=self.fp8,
            folded=self.folded,
            equal_rows=not self.padded,
            attention=self.attention,
            spread=Spread(type="zero", processes=2) if self.zero else Spread(),
        )

    def model(self) -> Any:
        """As `ftune sft` would have it."""
        torch.manual_seed(0)
        given = dict(self.config)
        settings = CONFIG_MAPPING[given.pop("model_type")](**given)
        products = torch.bfloat16 if self.products == "bf16" else torch.float32
        trained = products if self.zero else torch.float32
        dtype = trained if self.trains == "all" else products
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype, attn_implementation=self.attention)
        if self.flat:
            AttentionInterface.register(NAME, rows_attention)
            kernel_for_rows.register()
            model.set_attn_implementation(kernel_for_rows.NAME if self.on_gpu else NAME)
        if self.trains == "prompt":
            return model.requires_grad_(False)
        if self.trains == "lora":
            names = [linear.name.rpartition(".")[2] for linear in self.job.shape.layer_linears]
            model = get_peft_model(model, LoraConfig(r=RANK, target_modules=names, task_type="CAUSAL_LM"))
            for value in model.parameters():
                value.data = value.data.to(trained) if value.requires_grad else value.data
        return model

    def counted(self) -> int:
        """Bytes of all tensors of tokens that a forward pass saves, each storage once."""
        model = self.model()
        found: dict[int, torch.Tensor] = {}
        own = set[int]()

        def keep(value: torch.Tensor) -> torch.Tensor:
            storage = value.untyped_storage()
            if storage.data_ptr() not in own and storage.nbytes() % TOKENS == 0:
                found[storage.data_ptr()] = value
            return value

        ids = torch.arange(ROWS * TOKENS).reshape(ROWS, TOKENS) % 96
        mask = torch.ones_like(ids)
        mask[0, -5:] = 0 if self.padded else 1
        batch: dict[str, Any] = {"attention_mask": mask}
        if self.flat:
            ids = ids.reshape(1, -1)
            batch = {"position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None]}
            batch |= borders_of(LENGTHS)
        inner = model.get_base_model() if self.trains == "lora" else model
        given = {"input_ids": ids}
        if self.trains == "prompt":
            given = {"inputs_embeds": inner.get_input_embeddings()(ids).detach().requires_grad_(True)}
        if self.compiled:
            torch._dynamo.reset()
            inner.get_input_embeddings().register_forward_hook(lambda *given: given[-1].requires_grad_(True))
            for layer in inner.get_decoder().layers:
                layer.compile(backend="aot_eager_decomp_partition", dynamic=False)
        mixed = self.products == "bf16" and not self.zero
        saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
        with ExitStack() as stack:
            if self.folded:
                stack.enter_context(fold(model, inner, {**given, **batch}))
            if self.fp8:
                stack.enter_context(fp8_products(inner, "tensorwise", emulated=False))
            own |= {value.untyped_storage().data_ptr() for value in model.parameters()}
            stack.enter_context(saving)
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed))
            inner.base_model(**given, **batch, use_cache=False)
        return sum(value.untyped_storage().nbytes() for value in found.values())


def fold(model: Any, inner: Any, batch: dict[str, Any]) -> AbstractContextManager[None]:
    """The model with its adapters in the products of their layers."""
    with watched(model) as found, torch.no_grad():
        inner.base_model(**batch, use_cache=False)
    return folded(model, found)


CASES = [
    Case(LLAMA, "all"),
    Case(LLAMA, "all", "eager", padded=True),
    Case(QWEN3, "all", padded=True),
    Case(LLAMA, "all", products="fp32"),
    Case(LLAMA, "all", zero=True),
    Case(LLAMA, "lora"),
    Case(LLAMA, "lora", padded=True),
    Case(QWEN3, "lora", "eager"),
    Case(PHI3, "lora"),
    Case(LLAMA, "lora", products="fp32"),
    Case(LLAMA, "lora", zero=True),
    Case(LLAMA, "all", flat=True),
    Case(QWEN3, "all", flat=True, products="fp32"),
    Case(LLAMA, "lora", flat=True),
    Case(QWEN3, "lora", flat=True, on_gpu=True),
    Case(PHI3, "all", flat=True, on_gpu=True),
    Case(QWEN3, "lora", flat=True, products="fp32"),
    Case(LLAMA, "lora", flat=True, zero=True),
    Case(PHI3, "lora", flat=True),
    Case(LLAMA, "lora", flat=True, folded=True),
    Case(QWEN3, "lora", flat=True, folded=True),
    Case(QWEN3, "lora", flat=True, folded=True, products="fp32"),
    Case(PHI3, "lora", flat=True, folded=True),
    Case(LLAMA, "prompt"),
    Case(QWEN3, "prompt", padded=True),
    Case(PHI3, "prompt", "eager", padded=True),
    Case(GEMMA2, "lora", "eager"),
    Case(GEMMA3, "all", padded=True),
    # in fp32: autocast computes LayerNorms in fp32 on GPUs alone
    Case(GPT2, "lora", products="fp32"),
    Case(GPT2, "lora", products="fp32", flat=True),
    Case(OPT, "prompt", products="fp32"),
    Case(BLOOM, "prompt", "eager", products="fp32"),
]


COMPILED = [
    pytest.param(Case(QWEN3, "lora", flat=True, compiled=True, folded=True), marks=pytest.mark.slow),
    pytest.param(Case(LLAMA, "all", flat=True, on_gpu=True, compiled=True), marks=pytest.mark.slow),
    pytest.param(
        Case(LLAMA, "all", flat=True, on_gpu=True, compiled=True, zero=True, fp8=True), marks=pytest.mark.slow
    ),
    pytest.param(Case(LLAMA, "lora", flat=True, compiled=True, folded=True), marks=pytest.mark.slow),
    pytest.param(Case(QWEN3, "lora", flat=True, on_gpu=True, compiled=True), marks=pytest.mark.slow),
    pytest.param(Case(PHI3, "lora", flat=True, on_gpu=True, compiled=True, zero=True), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("case", [*CASES, *COMPILED])
def test_formulas_count_what_autograd_saves(case: Case) -> None:
    job = case.job
    assert saved(job) + last_norm(job) - made_mask(job) == case.counted()
