"""Whether the disk has room is asked before the first step."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from ftune.core.errors import StorageError
from ftune.core.say import Say
from ftune.trainers.space import Need, need_of


class Disk(NamedTuple):
    """What shutil.disk_usage gives."""

    total: int
    used: int
    free: int


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, free))


def test_what_trains_is_counted_with_its_optimiser() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(10, 10, bias=False), torch.nn.Linear(10, 5, bias=False))
    model[0].weight.requires_grad = False
    assert need_of(model, "adamw_torch_fused", checkpoints=True) == Need(checkpoint=50 * 12, result=50 * 4)
    assert need_of(model, "sgd", checkpoints=True) == Need(checkpoint=50 * 4, result=50 * 4)
    assert need_of(model, "adamw_bf16", checkpoints=True) == Need(checkpoint=50 * 6, result=50 * 2)
    assert need_of(model, "sgd", checkpoints=False).checkpoint == 0


@pytest.mark.parametrize(("free", "ends", "warns"), [(699, False, True), (700, False, False), (299, True, False)])
def test_room_for_all_some_or_no_checkpoints(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free: int,
    ends: bool,
    warns: bool,
) -> None:
    with_free(monkeypatch, free * 2**20)
    need = Need(checkpoint=200 * 2**20, result=100 * 2**20)
    if ends:
        with pytest.raises(StorageError, match=r"a checkpoint 200\.0 MiB, so they could not be saved"):
            need.check(tmp_path, 2, Say())
        return
    need.check(tmp_path, 2, Say())
    assert ("need 700.0 MiB" in capsys.readouterr().err) is warns
