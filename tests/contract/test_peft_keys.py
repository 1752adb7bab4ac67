"""Every key of every PEFT method does something: changed, it makes another model, or trains it in another way."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ftune.core.errors import ModelError
from ftune.core.variants import variants_of
from ftune.peft.base import Material, PeftMethod, count_parameters
from tests.contract.cases import OTHER, REQUIRED

KEYS = [(name, key) for name, keys in OTHER.items() for key in keys]
IDS = torch.tensor([[5, 9, 13, 21, 34, 55, 89, 144]])


@cache
def observed(section: str, tiny_model: Path) -> object:
    """What can be told of a method: what trains and how fast, losses of some steps, what it does not go with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = json.loads(section)
    method = variants_of(PeftMethod)[settings["type"]].model_validate(settings)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(5)
    rows = [IDS[0].tolist(), IDS[0].flip(0).tolist()]
    material = Material(tokenizer, str(tiny_model), rows)
    try:
        model: Any = method.wrap(AutoModelForCausalLM.from_pretrained(tiny_model), material)
    except ModelError as refused:  # a model that has nothing to train without the key
        return str(refused)
    trainable = [name for name, value in model.named_parameters() if value.requires_grad]
    groups = [
        {"params": [value], "lr": 0.01 * method.learning_rate_factor(name)}
        for name, value in model.named_parameters()
        if value.requires_grad
    ]
    optimizer, hook = torch.optim.AdamW(groups), method.hook(model)
    if hook:
        hook.begin(8)
    model.train()
    losses = []
    for step in range(8):
        loss = model(IDS, labels=IDS).loss
        extra = hook.regulariser() if hook else None
        (loss if extra is None else loss + extra).backward()
        optimizer.step()
        if hook:
            hook.after_step(step + 1)
        optimizer.zero_grad()
        losses.append(round(float(loss.detach()), 5))
    return trainable, count_parameters(model), losses, method.limits(), method.default_learning_rate


def without(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """The same settings with the key as it is by default; without all that goes with it where that is not allowed."""
    name = settings["type"]
    plain: dict[str, Any] = {"type": name, **REQUIRED.get(name, {})}
    reverted = {field: value for field, value in settings.items() if field != key} | (
        {key: plain[key]} if key in plain else {}
    )
    try:
        variants_of(PeftMethod)[name].model_validate(reverted)
    except ValidationError:
        return plain
    return reverted


@pytest.mark.parametrize("name", OTHER)
def test_what_is_observed_does_not_change_by_itself(name: str, tiny_model: Path) -> None:
    plain = json.dumps({"type": name, **REQUIRED.get(name, {})})
    assert observed.__wrapped__(plain, tiny_model) == observed(plain, tiny_model)


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_a_key_makes_a_difference(name: str, key: str, tiny_model: Path) -> None:
    other = {"type": name, **REQUIRED.get(name, {}), **OTHER[name][key]}
    plain = without(other, key)
    assert observed(json.dumps(other), tiny_model) != observed(json.dumps(plain), tiny_model)


@pytest.mark.parametrize("name", variants_of(PeftMethod))
def test_no_key_is_without_another_value(name: str) -> None:
    fields = set(variants_of(PeftMethod)[name].model_fields) - {"type"}
    assert set(OTHER.get(name, {})) == fields
