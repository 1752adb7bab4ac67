"""Adapters trained on quantised weights are merged into full ones by default, or into those they were trained on.

On this machine's CPU bitsandbytes 0.50 refuses nf4 layers whose outputs are no multiple of 32, so the model has none.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Done

pytest.importorskip("bitsandbytes")

Run = Callable[..., Done]
Write = Callable[..., Path]
IDS = torch.arange(2, 290, 3)[None]
CASES = {
    "nf4": {"type": "nf4", "double_quant": True},
    "nf4, plain scales": {"type": "nf4", "double_quant": False},
    "int8": {"type": "int8"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A model like the tiny one, twice as wide."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide") / "model"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(0)
    wide = LlamaConfig.from_pretrained(tiny_model, hidden_size=64, intermediate_size=128)
    LlamaForCausalLM(wide).save_pretrained(folder)
    return folder


def quantised(base: Path, case: dict[str, Any]) -> Any:
    """The base as it was in training."""
    from ftune.core.variants import variants_of
    from ftune.models.load import load_model
    from ftune.models.quantization.base import Quantization

    section = variants_of(Quantization)[case["type"]].model_validate(case)
    return load_model(str(base), dtype="float32", loader_args=section.loader_args("float32"))


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=[pytest.mark.slow] if name != "nf4" else []) for name, case in CASES.items()],
)
def test_merged_into_the_weights_that_it_was_trained_on(
    recipe: Write, ftune: Run, base: Path, tmp_path: Path, case: dict[str, Any]
) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    from ftune.peft.adapters import load_adapter

    peft = {"type": "lora", "rank": 4, "target_modules": ["q_proj", "down_proj"]}
    model = {"path": str(base), "quantization": case}
    assert ftune("sft", recipe(model=model, peft=peft, output_dir="run")).code == 0
    verify = "verify={rows: 4, max_new_tokens: 0}"
    done = ftune("merge", "run", verify)
    assert done.code == 0, done.err
    assert re.search(
        rf"drift: trained on {case['type']} weights, merged into full ones: KL [0-9.e-]+ per token", done.err
    )
    done = ftune("merge", "run", verify, "base_weights=quantized", "--output", "trained")
    assert done.code == 0, done.err
    assert "merged into what these stand for" in done.err
    assert "14 tensors changed" in done.err

    packed = quantised(base, case)
    state = {
        path: module
        for path, module in packed.named_modules()
        if hasattr(module, "quant_state") or hasattr(module, "state")
    }
    seen = {
        f"{path}.weight": dequantize_bnb_weight(module.weight, getattr(module, "state", None))
        for path, module in state.items()
    }
    assert len(seen) == 14
    before, after = load_file(base / "model.safetensors"), load_file("trained/model.safetensors")
    adapter = load_file("run/adapter/adapter_model.safetensors")
    settings = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    scale, changed = settings["lora_alpha"] / settings["r"], 0
    for name, value in after.items():
        pair = [adapter.get(f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.weight") for side in "AB"]
        wanted = seen.get(name, before[name]).float()
        if pair[0] is None or pair[1] is None:
            assert torch.equal(value, wanted), name
        else:
            torch.testing.assert_close(value, wanted + scale * pair[1] @ pair[0], rtol=1e-6, atol=1e-6)
            changed += 1
    assert changed == 4

    trained = logits(load_adapter(packed, tmp_path / "run/adapter"))
    into_full, into_seen = (
        logits(AutoModelForCausalLM.from_pretrained(folder)) for folder in ("run/merged", "trained")
    )
    far, near = (float((found - trained).abs().max() / trained.abs().max()) for found in (into_full, into_seen))
    if case["type"] == "nf4":
        assert near < 1e-4 < far / 100
    else:
        assert near < 0.2  # int8 layers round what goes through them to 8 bit too, which no weight can bring back


def test_quantised_weights_of_a_run_that_had_none(recipe: Write, ftune: Run) -> None:
    assert ftune("sft", recipe(output_dir="run", schedule={"max_steps": 1})).code == 0
    done = ftune("merge", "run", "base_weights=quantized")
    assert done.code == 2
    assert "'quantized' is for the adapter of one run with a quantised base" in done.err
