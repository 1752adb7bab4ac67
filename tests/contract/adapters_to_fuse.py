"""Two small bottleneck adapters on disk, of random weights, that fit the tiny Llama and the tiny T5."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

HIDDEN, SIZE = 32, 4
SUBLAYERS = (
    *(f"model.layers.{layer}.mlp" for layer in range(2)),
    *(f"encoder.block.{layer}.layer.1.DenseReluDense" for layer in range(2)),
    *(f"decoder.block.{layer}.layer.2.DenseReluDense" for layer in range(2)),
)


@cache
def adapters_to_fuse() -> list[str]:
    """Folders of two adapters of style `pfeiffer`, made once a process and removed at its end."""
    root = Path(tempfile.mkdtemp(prefix="ftune-adapters-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    folders = [root / "first", root / "second"]
    for seed, folder in enumerate(folders):
        _write(folder, seed)
    return [str(folder) for folder in folders]


def _write(folder: Path, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    from ftune.peft.tuners.bottleneck.config import BottleneckConfig

    config = BottleneckConfig(target_modules=["mlp", "DenseReluDense"], style="pfeiffer", size=SIZE)
    config.save_pretrained(str(folder))
    made = torch.Generator().manual_seed(seed)
    shapes = {"down.weight": (SIZE, HIDDEN), "down.bias": (SIZE,), "up.weight": (HIDDEN, SIZE), "up.bias": (HIDDEN,)}
    weights = {
        f"base_model.model.{path}.bottleneck_adapters.{name}": torch.randn(shape, generator=made) * 0.2
        for path in SUBLAYERS
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "adapter_model.safetensors")
