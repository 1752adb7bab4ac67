"""The mode of a model is what was last asked for, and is set once."""

from collections.abc import Iterable

import pytest
from torch import nn

from ftune.trainers.modes import mode_known


def modes(modules: Iterable[nn.Module]) -> set[bool]:
    return {module.training for module in modules}


def test_modes_follow_and_are_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[bool] = []
    honest = nn.Sequential.train
    monkeypatch.setattr(nn.Sequential, "train", lambda self, mode=True: walks.append(mode) or honest(self, mode))
    inner = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    outer = nn.ModuleList([inner])  # as DDP is around a model
    inner[1].eval()
    with mode_known(inner):
        assert outer.train() is outer
        assert modes(outer.modules()) == {True}
        outer.train()
        assert walks == [True]
        assert inner.eval() is inner
        assert modes(inner.modules()) == {False}
        outer.train()
        assert modes(outer.modules()) == {True}
    assert walks == [True, False, True]
    assert "train" not in vars(inner)
