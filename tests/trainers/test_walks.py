"""The mode of a model is what was last asked for, and is set once; gradients go without looking for them."""

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from ftune.trainers.walks import walked_once


def modes(modules: Iterable[nn.Module]) -> set[bool]:
    return {module.training for module in modules}


def test_modes_follow_and_are_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[bool] = []
    honest = nn.Sequential.train
    monkeypatch.setattr(nn.Sequential, "train", lambda self, mode=True: walks.append(mode) or honest(self, mode))
    inner = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    outer = nn.ModuleList([inner])  # as DDP is around a model
    inner[1].eval()
    with walked_once(inner):
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


def test_gradients_of_what_trains_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    with walked_once(model):
        with monkeypatch.context() as patch:
            patch.setattr(nn.Sequential, "parameters", lambda self: pytest.fail("looked for"))
            model(torch.ones(1, 2)).sum().backward()
            model.zero_grad()
        assert [value.grad for value in model.parameters()] == [None] * 4
        model(torch.ones(1, 2)).sum().backward()
        model.zero_grad(set_to_none=False)
        assert [value.grad is None or value.grad.abs().sum() == 0 for value in model.parameters()] == [True] * 4
        assert model[0].weight.grad is not None
    assert "zero_grad" not in vars(model)
