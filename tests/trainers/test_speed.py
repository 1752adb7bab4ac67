"""What makes a run fast gives the loss and the gradients of the plain way, or is off and says why."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ftune.speed.documents import NAME
from ftune.speed.flat import FixedShape, FlatCollator
from ftune.speed.loss import add_places
from ftune.trainers.feed import packed
from ftune.trainers.speed import Speed, Wanted, at_speed
from tests.trainers.test_packing_attention import GROUPED, LABELS, ROWS, SHAPE

HEADS = GROUPED | {"head_dim": 8}
CAPPED = HEADS | {"final_logit_softcapping": 3.0, "sliding_window": 4, "tie_word_embeddings": True}
MODELS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama, tied": lambda: LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "llama, untied": lambda: LlamaConfig(**GROUPED, tie_word_embeddings=False),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "qwen3": lambda: Qwen3Config(**HEADS),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=4),
    "gemma2": lambda: Gemma2Config(**CAPPED, attn_logit_softcapping=None, query_pre_attn_scalar=8),
    "granite": lambda: GraniteConfig(**GROUPED, logits_scaling=4.0, tie_word_embeddings=True),
    "cohere": lambda: CohereConfig(**GROUPED, logit_scale=0.25),
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2),
}


def model_of(config: PretrainedConfig, method: str = "full") -> Any:
    """A model with dropout off, of which all trains, or an adapter, or an adapter and a copy of the output layer."""
    torch.manual_seed(0)
    config.pad_token_id = None
    model = AutoModelForCausalLM.from_config(config)
    if method != "full":
        saved = ["lm_head"] if method == "lora and head" else None
        model = get_peft_model(
            model,
            LoraConfig(
                target_modules="all-linear", modules_to_save=saved, init_lora_weights=False, task_type="CAUSAL_LM"
            ),
        )
    return model.eval()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def plain(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Padded rows, whole logits and transformers' own loss, as a mean over the trained tokens."""
    examples = [{"input_ids": ids, "labels": labels} for ids, labels in zip(ROWS, LABELS, strict=True)]
    loss = model(**DataCollatorForLanguageModeling(pad_token_id=0)(examples), use_cache=False).loss
    return loss.item(), gradients(model, loss)


def fast(model: Any, *, pack: bool, fixed: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    """The same rows as a run has them; the model is at speed."""
    alone = [{"input_ids": ids, "labels": labels} for ids, labels in zip(ROWS, LABELS, strict=True)]
    shape = FixedShape(tokens=64, rows=12, longest=10) if fixed else None
    batch = add_places(FlatCollator(0, shape)([packed(ROWS[:2], LABELS[:2]), alone[2]] if pack else alone))
    loss, correct = model(**batch)
    assert 0 <= int(correct) <= len(batch["loss_targets"])
    return loss.item() / len(batch["loss_targets"]), gradients(model, loss / len(batch["loss_targets"]))


METHODS = [(name, method) for name in MODELS for method in ("full", "lora", "lora and head") if name != "gpt2"]


@pytest.mark.parametrize(("name", "method"), [*METHODS, ("gpt2", "full")])
def test_loss_and_gradients_are_those_of_the_plain_way(name: str, method: str) -> None:
    model = model_of(MODELS[name](), method)
    loss, slopes = plain(model)
    with at_speed(model, ROWS, torch.float32) as speed:
        assert speed == Speed(
            NAME, fused_loss=True, folded_lora=0 if method == "full" else 4 * model.config.num_hidden_layers
        )
        for way in ({"pack": False}, {"pack": True}, {"pack": True, "fixed": True}):
            found, ours = fast(model, **way)
            assert found == pytest.approx(loss, rel=1e-5)
            assert ours.keys() == slopes.keys()
            for key, slope in slopes.items():
                assert (ours[key] - slope).norm() <= 1e-5 * slope.norm() + 1e-9, (way, key)


def test_a_batch_without_trained_tokens_gives_a_loss_of_nothing() -> None:
    model = model_of(MODELS["llama, tied"]())
    with at_speed(model, ROWS, torch.float32):
        pass
    loss, correct = model(**add_places(FlatCollator(0)([{"input_ids": ROWS[0], "labels": [-100] * len(ROWS[0])}])))
    assert (loss.item(), int(correct)) == (0.0, 0)
    assert all(not slope.any() for slope in gradients(model, loss).values())


def test_the_model_is_left_as_it_was() -> None:
    model = model_of(MODELS["qwen2"]())
    ids = torch.tensor([ROWS[0]])
    before = model(input_ids=ids, labels=ids)
    with at_speed(model, ROWS, torch.float32):
        assert model.config._attn_implementation == NAME
    after = model(input_ids=ids, labels=ids)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)


def refused(model: Any, **asked: Any) -> str:
    with at_speed(model, ROWS, torch.float32, **asked) as speed:
        return f"{speed.attention or 'padded'}, {speed.fused_loss}: {speed.words()}"


def test_what_is_not_exact_is_off_and_says_why() -> None:
    falcon = FalconConfig(**SHAPE, alibi=True, initializer_range=0.2)
    said = "padded, True: no logits but of trained tokens; batches with padding or masks: "
    assert refused(model_of(falcon)) == f"{said}the model brings its own attention"
    capped = Gemma2Config(**CAPPED, attn_logit_softcapping=2.0, query_pre_attn_scalar=8)
    assert "each row by itself: the model caps its scores" in refused(model_of(capped))
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    virtual = refused(get_peft_model(model_of(MODELS["llama, tied"]()), prompt))
    assert virtual.startswith("padded, False")
    assert virtual.count("the method puts virtual tokens before each row") == 2


def test_a_model_with_more_than_a_linear_layer_at_its_end_keeps_its_own_loss() -> None:
    model = model_of(MODELS["llama, untied"]())
    honest = model.forward

    def warmer(*args: Any, **inputs: Any) -> Any:
        out = honest(*args, **inputs)
        out.logits = out.logits * 1.1
        return out

    model.forward = warmer
    assert "True" not in refused(model)
    assert "the model's logits are more than a linear layer" in refused(model)


def test_what_is_switched_off_is_off_without_a_word() -> None:
    model = model_of(MODELS["qwen2"]())
    with at_speed(model, ROWS, torch.float32, wanted=Wanted(False, False, False, False)) as speed:
        assert speed == Speed()
    assert "model.attention is 'eager'" in refused(model, asked="eager")
