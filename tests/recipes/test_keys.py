"""Every accepted key does something: one case a key, and a test that no key is without one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import pytest

from ftune.backends.base import Backend
from ftune.core.errors import RecipeError
from ftune.core.section import Section
from ftune.core.variants import variants_of
from ftune.data.formats.base import RowFormat
from ftune.peft.base import PeftMethod
from ftune.recipes.explain import _sections_in
from ftune.recipes.load import load_recipe
from ftune.recipes.sft import SftRecipe
from tests.recipes.ppo_recipes import ppo_recipe

TRAINING = {
    "seed": ("seed=7", "seed", 7),
    "output_dir": ("output_dir=elsewhere", "output_dir", "elsewhere"),
    "optim.optimizer": ("optim.optimizer=adafactor", "optim", "adafactor"),
    "optim.learning_rate": ("optim.learning_rate=3e-3", "learning_rate", 3e-3),
    "optim.betas": ("optim.betas=[0.8, 0.9]", "adam_beta2", 0.9),
    "optim.weight_decay": ("optim.weight_decay=0.5", "weight_decay", 0.5),
    "optim.max_grad_norm": ("optim.max_grad_norm=9.0", "max_grad_norm", 9.0),
    "schedule.epochs": ("schedule={epochs: 2.5}", "num_train_epochs", 2.5),
    "schedule.max_steps": ("schedule.max_steps=77", "max_steps", 77),
    "schedule.warmup": ("schedule.warmup=5", "warmup_steps", 5),
    "schedule.type": ("schedule.type=linear", "lr_scheduler_type", "linear"),
    "batch.micro_batch_size": ("batch.micro_batch_size=3", "per_device_train_batch_size", 3),
    "batch.global_batch_size": ("batch.global_batch_size=12", "gradient_accumulation_steps", 6),
    "batch.gradient_accumulation_steps": ("batch.gradient_accumulation_steps=5", "gradient_accumulation_steps", 5),
    "batch.activation_checkpointing": ("batch.activation_checkpointing=true", "gradient_checkpointing", True),
    "checkpoint.every": ("checkpoint.every=9", "save_steps", 9),
    "checkpoint.keep": ("checkpoint.keep=5", "save_total_limit", 5),
    "eval.every": ("eval.every=4", "eval_steps", 4),
    "eval.micro_batch_size": ("eval.micro_batch_size=6", "per_device_eval_batch_size", 6),
    "log.every": ("log.every=3", "logging_steps", 3),
    "backend.device": ("backend.device=cpu", "use_cpu", True),
    "trainer_args": ("trainer_args={label_smoothing_factor: 0.1}", "label_smoothing_factor", 0.1),
}


@pytest.mark.parametrize("key", TRAINING)
def test_keys_that_become_training_arguments(recipe: Callable[..., Path], key: str) -> None:
    override, name, value = TRAINING[key]
    path = recipe(data={"train": "rows.jsonl", "validation": 0.25})
    before, after = (load_recipe("sft", path, given).recipe for given in ([], [override]))
    assert isinstance(before, SftRecipe)
    assert isinstance(after, SftRecipe)
    assert after.training_args()[name] == value
    assert before.training_args().get(name) != value


def test_the_optimizer_on_bf16_weights_loads_them_so(recipe: Callable[..., Path]) -> None:
    path = recipe(peft="full")
    before, after = (load_recipe("sft", path, given).recipe for given in ([], ["optim.optimizer=adamw_bf16"]))
    assert isinstance(before, SftRecipe)
    assert isinstance(after, SftRecipe)
    assert (before.weights("bf16"), after.weights("bf16")) == ("fp32", "bf16")
    assert (before.trains_bf16, after.trains_bf16) == (False, True)
    before.check_products("fp32")
    with pytest.raises(RecipeError, match=r"'model\.dtype: auto' is fp32 here; set 'model\.dtype: bf16'"):
        after.check_products("fp32")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"peft": "lora"}, "'adamw_bf16' steps on bf16 weights, and what 'lora' trains is in fp32; use 'adamw', or"),
        ({"peft": "freeze"}, "what 'freeze' trains is in fp32"),
        ({"model": {"path": "m", "dtype": "fp16"}}, r"products in bf16; set 'model\.dtype: bf16', or use 'adamw'"),
    ],
)
def test_the_optimizer_on_bf16_weights_is_for_whole_models_in_bf16(
    recipe: Callable[..., Path], sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("sft", recipe(**{"peft": "full", "optim": {"optimizer": "adamw_bf16"}, **sections}))


def test_ppo_has_no_optimizer_on_bf16_weights(recipe: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match=r"optim\.optimizer: .*'adamw_bf16'"):
        load_recipe("ppo", ppo_recipe(recipe, optim={"optimizer": "adamw_bf16"}))


def test_log_trackers(recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftune.recipes.training_sections.find_spec", lambda name: object())
    loaded = load_recipe("sft", recipe(log={"trackers": ["tensorboard"]})).recipe
    assert isinstance(loaded, SftRecipe)
    assert loaded.log.trackers == ["tensorboard"]
    assert loaded.training_args()["report_to"] == "none"  # they are fed from the run's events


def test_training_arguments_are_those_of_the_installed_trl(recipe: Callable[..., Path]) -> None:
    from trl import SFTConfig

    loaded = load_recipe("sft", recipe(data={"train": "rows.jsonl", "validation": 0.25})).recipe
    assert isinstance(loaded, SftRecipe)
    config = SFTConfig(**loaded.training_args(), bf16=False)
    for name in ("learning_rate", "weight_decay", "max_steps", "save_steps", "seed"):
        assert getattr(config, name) == loaded.training_args()[name]


# -- model, peft -------------------------------------------------------------------------------------------------------


def model_of(path: Path, *overrides: str) -> Any:
    loaded = load_recipe("sft", path, overrides).recipe
    assert isinstance(loaded, SftRecipe)
    return loaded


def test_model_dtype_attention_and_template(recipe: Callable[..., Path], tmp_path: Path, tiny_model: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    (tmp_path / "mine.jinja").write_text("{{ messages[0]['content'] }}")
    section = model_of(recipe(), "model.attention=eager", "model.chat_template=mine.jinja").model
    model = section.load(str(tiny_model), "bf16", "cpu")
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert section.template(AutoTokenizer.from_pretrained(tiny_model)).text == "{{ messages[0]['content'] }}"


def test_model_revision_and_remote_code_reach_the_loader(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr("ftune.models.load.load_model", lambda path, **how: asked.update(how))
    path = recipe(model={"path": "org/name", "revision": "abc", "trust_remote_code": True})
    model_of(path).model.load("org/name", "fp32", "cpu")
    assert asked["revision"] == "abc"
    assert asked["trust_remote_code"] is True


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("model.quantization=nf4", "load_in_4bit", True),
        ("model.quantization={type: nf4, double_quant: false}", "bnb_4bit_use_double_quant", False),
        ("model.quantization={type: nf4, compute_dtype: fp16}", "bnb_4bit_compute_dtype", "float16"),
        ("model.quantization=int8", "load_in_8bit", True),
        ("model.quantization={type: int8, threshold: 3.0}", "llm_int8_threshold", 3.0),
    ],
)
def test_model_quantization(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, override: str, name: str, value: object
) -> None:
    import torch

    monkeypatch.setattr("ftune.models.quantization.base.find_spec", lambda name: object())
    monkeypatch.setattr("transformers.utils.quantization_config.BitsAndBytesConfig.post_init", lambda self: None)
    config = model_of(recipe(), override).model.quantization.loader_args("bfloat16")["quantization_config"]
    found = getattr(config, name)
    assert (str(found).removeprefix("torch.") if isinstance(found, torch.dtype) else found) == value


COVERED = {
    *TRAINING, "log.trackers", "extends", "type", "peft", "backend",
    "data.train", "data.train.path", "data.train.rows", "data.train.weight", "data.train.columns", "data.train.name",
    "data.train.split", "data.train.revision", "data.validation", "data.validation.source", "data.validation.fraction",
    "data.validation.count", "data.format", "data.mask", "data.max_length", "data.on_bad_row", "data.on_long_row",
    "data.packing", "data.num_proc", "data.on_preference", "data.mix.type", "data.mix.stop", "data.mix.cap",
    "data.mix.temperature", "data.streaming", "data.streaming.shuffle_buffer", "data.train.encoding",
    "data.train.documents", "data.train.format", "data.validation.group",
    "model.path", "model.revision", "model.dtype", "model.attention", "model.chat_template", "model.quantization",
    "model.trust_remote_code", "model.quantization.type", "model.quantization.double_quant",
    "model.quantization.compute_dtype", "model.quantization.threshold", "speed.packed_attention", "speed.fused_loss",
    "speed.folded_lora", "speed.compiled_layers", "speed.fp8", "batch.activation_offload",
}  # fmt: skip
"""Keys with a case here, in test_data_keys, test_load, test_speed_keys, test_offload, tests/trainers/test_sft.py
(packing), tests/data (formats), tests/contract/test_peft_keys.py (PEFT methods) or tests/backends/test_keys.py
(backends)."""


def keys_of(
    section: type[Section], prefix: str = "", elsewhere: type[Section] | UnionType = RowFormat | PeftMethod | Backend
) -> Iterator[str]:
    """The keys of a section and of those in it, but for variants that are tested `elsewhere`."""
    for name, field in section.model_fields.items():
        inner = [found for found in _sections_in(field.annotation) if not issubclass(found, elsewhere)]
        if not inner or inner[0].__name__ in ("Source", "TrainingSource", "Validation", "Streaming"):
            yield f"{prefix}{name}"
        for found in inner:
            yield from (
                keys_of(found, f"{prefix}{name}.", elsewhere) if found.__name__ != "Source" or name == "train" else ()
            )


def test_no_key_is_without_a_case() -> None:
    assert set(variants_of(RowFormat))
    assert sorted(set(keys_of(SftRecipe)) - COVERED) == []
