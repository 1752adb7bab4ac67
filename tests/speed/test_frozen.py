"""Weights that are unpacked for a product are made anew for its gradient, not kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from ftune.speed.folded import folded

SIZE: dict[str, Any] = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1}
IDS = torch.arange(6)[None]


def layers_of(model: Any) -> list[list[Any]]:
    layer = model.get_base_model().model.layers[0]
    attention, wide = layer.self_attn, layer.mlp
    return [
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [wide.gate_proj, wide.up_proj],
        [wide.down_proj],
    ]


def test_a_compiled_layer_keeps_no_unpacked_weights(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**SIZE, num_attention_heads=4)).bfloat16().save_pretrained(tmp_path)
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=four)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model: Any = get_peft_model(loaded, lora).train()  # in evaluation bitsandbytes keeps weights in another order
    kept: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value)
        return value

    with torch.autocast("cpu", torch.bfloat16):
        expected = model(input_ids=IDS).logits.detach()
        with folded(model, layers_of(model)):
            torch._dynamo.reset()
            inner = model.get_base_model().model
            inner.embed_tokens.register_forward_hook(lambda *given: given[-1].requires_grad_(True))
            inner.layers[0].compile(backend="aot_eager_decomp_partition")
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
                logits = model(input_ids=IDS).logits
            logits.float().square().sum().backward()
    torch.testing.assert_close(logits.detach(), expected, rtol=0.05, atol=0.05)
    assert model.get_base_model().model.layers[0].mlp.down_proj.lora_A["default"].weight.grad.any()
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    others = [value for value in kept if value.untyped_storage().data_ptr() not in own]
    smallest = 128 * 128  # numbers of the smallest layer's weights
    assert max(value.untyped_storage().nbytes() // value.element_size() for value in others) < smallest
