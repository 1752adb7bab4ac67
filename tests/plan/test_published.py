"""Published numbers, exactly or with the difference explained."""

import pytest

from ftune.plan.published import Published, published, table

ROWS = {row.what: row for row in published()}


def row(start: str) -> Published:
    (found,) = (row for what, row in ROWS.items() if what.startswith(start))
    return found


@pytest.mark.parametrize(
    ("start", "said"),
    [("7.5B, 64 GPUs", 120.0), ("the same, ZeRO-1", 31.4), ("the same, ZeRO-2", 16.6), ("the same, ZeRO-3", 1.9)],
)
def test_zero(start: str, said: float) -> None:
    assert row(start).said_gb == said
    assert round(row(start).ours_gb, 1) == said


def test_lora_on_gpt3() -> None:
    assert row("GPT-3 175B, LoRA").ours_gb == pytest.approx(350.0, rel=0.005)
    whole = row("GPT-3 175B, all")
    assert whole.ours_gb == pytest.approx(16 * 175, rel=0.005)
    assert "7 bytes" in whole.note


def test_seven_billion_parameters_on_one_card() -> None:
    fits = {what: row.fits for what, row in ROWS.items() if what.startswith("Llama 7B")}
    assert list(fits.values()) == [False, True, True, True]
    assert 80 < row("Llama 7B, one row: all").ours_gb < 120


def test_the_table_of_peft() -> None:
    assert row("bloomz-7b1, all").fits is False
    assert row("bloomz-7b1, LoRA with").fits is True
    assert ROWS["bloomz-7b1, LoRA"].ours_gb == pytest.approx(32.0, rel=0.05)
    assert row("bloomz-7b1, LoRA with").note


def test_65_billion_on_48_gb() -> None:
    assert row("LLaMA 65B").fits
    assert row("LLaMA 65B").ours_gb > 33, "65 billion numbers in 4.127 bits alone"


def test_where_ours_differ_a_reason_is_given() -> None:
    for found in ROWS.values():
        if found.said_gb is not None and abs(found.ours_gb / found.said_gb - 1) > 0.1:
            assert found.note, found.what


def test_the_table_has_every_row() -> None:
    text = table()
    assert all(what in text for what in ROWS)
    assert "does not fit into 80 GB" in text
