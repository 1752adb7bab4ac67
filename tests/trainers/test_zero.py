"""Two processes train by ZeRO as one does; their state is whole, goes on elsewhere, and a bad step leaves no trace."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.backends.machine import missing_for_async_io
from tests.pair import run_pair

EXACT = 1e-6
"""Largest differences in fp32: sums over ranks are added in another order."""

STEPPED = 1e-5
"""Of weights that AdamW has moved, and of gradients there: it divides gradients by their size, and their rounding."""


def ran(folder: Path, what: str) -> dict[str, Any]:
    """What both processes found, of which the first one's."""
    (folder / "drive").mkdir()
    cpu = {"DS_ACCELERATOR": "cpu"} if torch.cuda.is_available() else {}  # which DeepSpeed takes by itself else
    run_pair("tests.trainers.zero_ranks", folder, what, OMP_NUM_THREADS="1", **cpu)
    found = [json.loads((folder / f"{what}.{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert found[0].keys() == found[1].keys()
    first: dict[str, Any] = found[0]
    return first


def check(folder: Path, name: str, found: dict[str, float]) -> None:
    """A case of `zero_ranks.case`, and what it has exported."""
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    from tests.trainers.zero_ranks import collate, llama, rows

    same_kind = next(key for key in found if key.startswith("goes on"))
    for key in (same_kind, "never spoilt", "evaluated as before the export"):
        assert found.pop(key) == 0.0, key
    limits = {"weights": STEPPED, "norms": STEPPED}
    assert {key: value for key, value in found.items() if value > limits.get(key, EXACT)} == {}
    if name.startswith("full"):
        exported: Any = LlamaForCausalLM.from_pretrained(folder / name)
    else:
        exported = PeftModel.from_pretrained(llama("full"), str(folder / name))
    with torch.no_grad():
        logits = exported.eval()(**collate(rows(range(50, 51)))).logits
    assert float((logits - torch.load(folder / f"{name}.pt")).abs().max()) < EXACT


def test_stages_train_save_and_go_on_as_one_process_does(tmp_path: Path) -> None:
    found = ran(tmp_path, "full 3")
    for name, result in found.items():
        if name.startswith("skipped"):
            assert result == 0.0, name
        else:
            check(tmp_path, name, result)


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        "full 1,full 2,lora 1,lora 2,lora 3,skipped 2,skipped 3",
        "full 2 offloaded,full 3 offloaded,lora 3 offloaded,skipped 2 offloaded,skipped 3 offloaded",
        pytest.param(
            "full 3 on a drive,skipped 3 on a drive",
            marks=pytest.mark.skipif(
                missing_for_async_io(on_gpu=False) is not None, reason="DeepSpeed's async_io cannot be built here"
            ),
        ),
    ],
)
def test_other_stages_and_offloading_do_too(what: str, tmp_path: Path) -> None:
    for name, result in ran(tmp_path, what).items():
        if name.startswith("skipped"):
            assert result == 0.0, name
        else:
            check(tmp_path, name, result)
