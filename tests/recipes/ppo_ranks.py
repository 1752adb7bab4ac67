"""What one of two processes does for `test_ppo_ranks.py`: several runs of `ftune ppo`, one after the other."""

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from ftune.cli.main import app
from ftune.core.errors import FtuneError

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}

CASES: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "ddp": ("ppo.yaml", [], {}),
    "fsdp": ("ppo.yaml", [], FSDP),
    "resumed": ("ppo.yaml", ["--resume"], FSDP),
    "full": ("full.yaml", [], FSDP),
    "failed ddp": ("failing.yaml", [], {}),
    "failed fsdp": ("failing.yaml", [], FSDP),
}


def main(rank: int, folder: Path, ports: list[str]) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    found = {}
    for (name, (recipe, options, variables)), port in zip(CASES.items(), ports, strict=True):
        if name == "resumed" and rank == 0:
            _begin_again(folder / "runs/fsdp", folder / "runs/resumed")
        os.environ |= {"MASTER_PORT": port, **variables}
        AcceleratorState._reset_state(reset_partial_state=True)
        found[name] = ""
        with contextlib.suppress(SystemExit):
            try:
                app(["ppo", recipe, f"output_dir=runs/{name}", *options], standalone_mode=False)
            except FtuneError as error:
                found[name] = f"{type(error).__name__}: {error}"
        if torch.distributed.is_initialized():  # a process that fails ends, and its group with it
            torch.distributed.destroy_process_group()
    (folder / f"rank_{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _begin_again(run: Path, target: Path) -> None:
    """The run as it was after its first iteration."""
    import shutil

    shutil.copytree(run, target)
    shutil.rmtree(target / "checkpoint-2")
    shutil.rmtree(target / "adapter")
    (target / "ftune.json").write_text('{"state": "stopped"}', encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
