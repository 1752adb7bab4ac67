"""The proof's measures: exact for tiny differences, and a judge that knows right merges from wrong ones."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal, getcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.merge.engines.compared import (
    LIMITS,
    NOISE,
    Dtype,
    Measured,
    advice,
    greedy,
    logits_of,
    measure,
    verdict,
)

ROWS = [[(7 * row + 11 * place) % 290 + 5 for place in range(24)] for row in range(6)]
TORCH: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Deltas = dict[str, torch.Tensor]


def exact_kl(one: list[float], other: list[float]) -> Decimal:
    """KL of two rows of logits with fifty digits."""
    getcontext().prec = 50

    def logs(row: list[float]) -> list[Decimal]:
        shifted = [Decimal(value) for value in row]
        total = sum((value.exp() for value in shifted), Decimal(0)).ln()
        return [value - total for value in shifted]

    return sum((a.exp() * (a - b) for a, b in zip(logs(one), logs(other), strict=True)), Decimal(0))


@settings(max_examples=12, deadline=None)
@given(size=st.sampled_from([1.0, 1e-2, 1e-4, 1e-5]), seed=st.integers(0, 1000), tokens=st.sampled_from([1, 70]))
def test_kl_is_exact_however_small(size: float, seed: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    adapter = 10 * torch.randn(tokens, 7, generator=generator)
    merged = adapter + size * torch.randn(tokens, 7, generator=generator)
    base = adapter + torch.randn(tokens, 7, generator=generator)
    found = measure([adapter], [base], [merged], completions=(["x"], ["x"]))
    rows = [(a.tolist(), b.tolist(), m.tolist()) for a, b, m in zip(adapter, base, merged, strict=True)]
    wanted = float(sum((exact_kl(a, m) for a, _, m in rows), Decimal(0))) / tokens
    effect = float(sum((exact_kl(a, b) for a, b, _ in rows), Decimal(0))) / tokens
    assert found.kl == pytest.approx(wanted, rel=1e-6, abs=1e-15)
    assert found.effect == pytest.approx(effect, rel=1e-6)
    assert found.lost == found.kl / max(found.effect, NOISE)
    assert found.largest == pytest.approx(float((adapter - merged).abs().max() / adapter.abs().max()))
    assert found.mean == pytest.approx(float((adapter - merged).abs().mean() / adapter.abs().max()))
    assert (found.rows, found.tokens, found.same_greedy) == (1, tokens, 1)


@given(share=st.floats(-1, 3), seed=st.integers(0, 1000))
def test_kept_is_the_share_of_the_effect(share: float, seed: int) -> None:
    """Along the effect it is the share itself, whatever is added to all logits of a token."""
    generator = torch.Generator().manual_seed(seed)
    base, change = torch.randn(2, 4, 9, generator=generator).double()
    merged = base + share * change + torch.randn(4, 1, generator=generator)
    found = measure([base + change], [base], [merged], completions=(["x"], ["y"]))
    assert found.kept == pytest.approx(share, abs=1e-9)
    assert found.same_greedy == 0


def test_rows_count_by_their_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    long, short = torch.randn(3, 5, 7, generator=generator), torch.randn(3, 2, 7, generator=generator)
    apart = [measure(*([each] for each in row), completions=([], [])) for row in (long, short)]
    both = measure(*zip(long, short, strict=True), completions=(["a", "b"], ["a", "c"]))
    assert both.kl == pytest.approx((5 * apart[0].kl + 2 * apart[1].kl) / 7)
    assert (both.rows, both.tokens, both.same_greedy) == (2, 7, 1)
    with pytest.raises(ValueError, match="no rows"):
        measure([], [], [], completions=([], []))
    with pytest.raises(ValueError, match="shorter"):
        measure([long[0]], [long[0]], [], completions=([], []))


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Any:
    """In weights that all dtypes have, as models are published."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


def updates(base: Any, std: float) -> Deltas:
    """A random LoRA of rank 4 on every layer."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, weight in base.named_parameters():
        if "_proj" in name:
            rows, columns = weight.shape
            factors = torch.randn(rows, 4, generator=generator), torch.randn(4, columns, generator=generator)
            found[name] = std * factors[0] @ factors[1] / columns**0.5
    return found


def all_logits(base: Any, deltas: Deltas, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Of the base with updates, written in a dtype and computed in fp32."""
    model = deepcopy(base)
    for name, delta in deltas.items():
        weight = model.get_parameter(name)
        weight.data = (weight.data + delta).to(dtype).float()
    return list(logits_of(model, ROWS))


def other_layer(name: str) -> str:
    return name.replace("layers.0", "layers.x").replace("layers.1", "layers.0").replace("layers.x", "layers.1")


def wrong_merges(right: Deltas) -> Iterator[tuple[str, Deltas]]:
    yield "missing", {}
    yield "doubled", {name: 2 * delta for name, delta in right.items()}
    yield "wrong sign", {name: -delta for name, delta in right.items()}
    yield "wrong layer", {other_layer(name): delta for name, delta in right.items()}
    yield "without its scale", {name: delta / 2 for name, delta in right.items()}
    yield "half of the layers", {name: delta for name, delta in right.items() if "layers.1" in name}


Judge = Callable[[Deltas, Dtype], Measured]


def judge(base: Any, std: float) -> Judge:
    """Measures a merge that wrote some deltas against the adapter of that strength."""
    a, b, same = all_logits(base, updates(base, std)), all_logits(base, {}), ["x"] * len(ROWS)

    def measured(merged: Deltas, dtype: Dtype) -> Measured:
        return measure(a, b, all_logits(base, merged, TORCH[dtype]), completions=(same, same))

    return measured


@pytest.mark.parametrize("std", [0.1, 0.02, 0.005])
def test_right_merges_pass_and_wrong_ones_fail(base: Any, std: float) -> None:
    right, measured = updates(base, std), judge(base, std)
    for dtype in LIMITS:
        found = measured(right, dtype)
        assert verdict(found, dtype) == ""
        assert found.kept == pytest.approx(1, abs=0.1)
        for what, merged in wrong_merges(right):
            found = measured(merged, dtype)
            assert verdict(found, dtype), (what, dtype, found)
            assert "\n" not in verdict(found, dtype)


@pytest.mark.parametrize("std", [1e-3, 2e-4, 3e-5])
def test_weak_adapters_pass_or_are_told_to_take_fp32(base: Any, std: float) -> None:
    """A merge that loses an adapter which is too weak for the dtype may not pass, neither may wrong ones."""
    right, measured = updates(base, std), judge(base, std)
    for dtype in LIMITS:
        found = measured(right, dtype)
        assert (verdict(found, dtype) == "") == (found.lost <= 0.7)
        assert dtype != "fp32" or not verdict(found, dtype)
        assert ("--dtype fp32" in verdict(found, dtype)) == (found.lost > 0.7)
        assert bool(advice(found, dtype)) == (found.lost > 0.2)
        for what, merged in list(wrong_merges(right))[:4]:
            assert verdict(measured(merged, dtype), dtype), (what, dtype)


def test_the_weakest_adapters_are_lost_in_16_bit(base: Any) -> None:
    """So the tests above have seen both ends."""
    assert judge(base, 2e-4)(updates(base, 2e-4), "bf16").lost > 0.7
    assert 0.2 < judge(base, 1e-3)(updates(base, 1e-3), "bf16").lost < 0.7
    assert judge(base, 0.02)(updates(base, 0.02), "bf16").lost < 0.02


def test_an_adapter_without_effect_is_proven_by_staying_so(base: Any) -> None:
    nothing = {name: torch.zeros_like(delta) for name, delta in updates(base, 1.0).items()}
    same = all_logits(base, nothing)
    found = measure(same, same, same, completions=(["x"], ["x"]))
    assert (found.lost, found.kept, found.effect) == (0, 1, 0)
    assert not any(verdict(replace(found, same_greedy=found.rows), dtype) for dtype in LIMITS)
    strange = measure(same, same, all_logits(base, updates(base, 0.02)), completions=(["x"], ["x"]))
    assert all(verdict(strange, dtype) for dtype in LIMITS)


def test_each_limit_is_told() -> None:
    fine = Measured(rows=8, tokens=80, largest=1e-6, mean=1e-7, kl=1e-12, effect=0.1, kept=1.0, same_greedy=8)
    assert not any(verdict(fine, dtype) or advice(fine, dtype) for dtype in LIMITS)
    cases: list[tuple[Dtype, dict[str, float], str]] = [
        ("bf16", {"kl": float("nan")}, "some logits are not finite"),
        ("bf16", {"kl": 0.1}, "100% of the adapter's effect is lost (KL 1.0e-01 of 1.0e-01), and at most 70% may be"),
        ("fp16", {"kept": 0.9}, "has 0.90 times the adapter's effect, and between 0.95 and 1.05 times is allowed"),
        ("bf16", {"kl": 2e-3}, "KL of the adapter to the merged model is 2.0e-03, and rounding to bf16 explains 1e-03"),
        ("fp32", {"largest": 2e-4}, "logits differ by up to 2.0e-04 of the largest, and 1e-04 is allowed in fp32"),
        ("fp32", {"same_greedy": 6}, "2 of 8 greedy completions differ, and none may in fp32"),
    ]
    for dtype, values, message in cases:
        assert message in verdict(replace(fine, **values), dtype)  # type: ignore[arg-type]
    weak = replace(fine, kl=4e-6, effect=1e-5, kept=0.7)
    assert verdict(weak, "bf16") == ""
    assert advice(weak, "bf16") == "40% of the adapter's effect is lost to rounding in bf16; '--dtype fp32' keeps it"
    assert advice(weak, "fp32") == ""


def test_not_a_number_is_never_proven(base: Any) -> None:
    good = all_logits(base, updates(base, 0.1))
    bad = [row.clone() for row in good]
    bad[2][3, 4] = float("nan")
    found = measure(good, all_logits(base, {}), bad, completions=(["x"], ["x"]))
    assert all(verdict(replace(found, same_greedy=found.rows), dtype) for dtype in LIMITS)


def test_models_are_asked_as_for_evaluation_and_left_as_they_were(base: Any, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    model = deepcopy(base).train()
    model.model.embed_tokens.register_forward_hook(lambda module, _, __: seen.append(module.training))
    seen: list[bool] = []
    found = list(logits_of(model.bfloat16(), ROWS[:2]))
    assert [row.shape for row in found] == [(24, model.config.vocab_size)] * 2
    assert all(row.dtype == torch.float32 for row in found)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = greedy(model, tokenizer, [ROWS[0], ROWS[1][:5]], max_new_tokens=4, stop_ids=[tokenizer.eos_token_id])
    assert len(texts) == 2
    assert texts[0] == greedy(model, tokenizer, [ROWS[0]], max_new_tokens=4, stop_ids=[tokenizer.eos_token_id])[0]
    assert not any(seen)
    assert model.training
