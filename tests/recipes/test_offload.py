"""`batch.activation_offload`: what it goes with, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.core.errors import RecipeError
from ftune.recipes.load import load_recipe
from tests.conftest import Done

OFFLOAD = {"micro_batch_size": 2, "activation_checkpointing": True, "activation_offload": True}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"batch": OFFLOAD | {"activation_checkpointing": False}}, "'activation_checkpointing: true' keeps; set that"),
        ({"batch": OFFLOAD | {"activation_checkpointing": "selective"}}, "'activation_checkpointing: true' keeps"),
        ({"batch": OFFLOAD, "backend": "fsdp"}, "'backend: fsdp' has them in parts; set it to false"),
        ({"batch": OFFLOAD, "backend": {"type": "zero", "stage": 2}}, "'backend: zero' has them in parts"),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(
    sections: dict[str, Any], message: str, recipe: Callable[..., Path]
) -> None:
    with pytest.raises(RecipeError, match=rf"activation_offload: .*{message}"):
        load_recipe("sft", recipe(**sections))


@pytest.mark.parametrize("command", ["sft", "rm"])
def test_a_cpu_has_nowhere_else_to_put_them(
    recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path, command: str
) -> None:
    path = recipe(batch=OFFLOAD, backend={"device": "cpu"})
    if command == "rm":
        rows = [f'{{"prompt": "a {number}", "chosen": "b", "rejected": "c"}}' for number in range(8)]
        (tmp_path / "rows.jsonl").write_text("\n".join(rows))
        path.write_text(path.read_text().replace("type: sft", "type: rm"))
    done = ftune(command, path)
    assert done.code == 2
    assert "batch.activation_offload: this run is on a CPU, in whose memory activations are anyway" in done.err
