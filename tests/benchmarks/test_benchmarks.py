"""What the benchmarks compute from what they measure."""

import argparse
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"
PARAMETERS = 8_030_261_248
"""Llama-3.1-8B's."""


@pytest.fixture(scope="module")
def memory() -> dict[str, Any]:
    """The functions of the memory benchmark."""
    return runpy.run_path(str(FOLDER / "memory_8b.py"))


@pytest.fixture(scope="module")
def peft() -> dict[str, Any]:
    """The functions of the PEFT benchmark."""
    return runpy.run_path(str(FOLDER / "peft_methods.py"))


def llama() -> argparse.Namespace:
    """The sizes of Llama-3.1-8B."""
    return argparse.Namespace(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
    )


def test_full_takes_16_bytes_a_parameter_and_no_frozen_weights(memory: dict[str, Any]) -> None:
    expected = memory["arithmetic"]("full", llama(), PARAMETERS, rows=1, length=1)
    assert (expected.weights, round(expected.trained, 2)) == (0, 119.66)


def test_frozen_weights_take_2_bytes_1_byte_or_about_half_a_byte(memory: dict[str, Any]) -> None:
    gib = {name: memory["arithmetic"](name, llama(), 0, rows=1, length=1).weights for name in ("lora", "int8", "qlora")}
    outside = 2 * (2 * 128_256 * 4096 + 65 * 4096)  # embeddings, head and norms in 16 bit
    inside = PARAMETERS - outside / 2
    assert gib["lora"] == pytest.approx(2 * PARAMETERS / 2**30)
    assert gib["int8"] == pytest.approx((inside + outside) / 2**30)
    assert gib["qlora"] == pytest.approx((4.127 / 8 * inside + outside) / 2**30, rel=1e-4)


def test_a_later_line_replaces_what_it_has_and_failures_come_last(peft: dict[str, Any], tmp_path: Path) -> None:
    lines = [
        {"method": "weak", "error": None, "exact": 0.1, "fields": 0.5, "validation_loss": 1.0, "steps_per_s": 1.0},
        {"method": "broken", "error": "no"},
        {"method": "good", "error": None, "exact": 0.9, "fields": 0.5, "validation_loss": 1.0, "steps_per_s": 1.0},
        {"method": "weak", "error": None, "steps_per_s": 7.0},
        {"method": "good", "error": "later and without its quality"},
    ]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = peft["read_results"](file)
    assert [record["method"] for record in found] == ["good", "weak", "broken"]
    assert (found[0]["error"], found[1]["exact"], found[1]["steps_per_s"]) == (None, 0.1, 7.0)


def test_labels_of_points_on_top_of_each_other_stay_apart(peft: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6))
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    peft["place_labels"](axes, [(5.0, 5.0)] * 12, [80.0] * 12, [f"method {index}" for index in range(12)])
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 12
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
