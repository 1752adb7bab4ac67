"""A reward adapter on the policy's base scores as the reward model does by itself, at each row's true last token."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.core.errors import ModelError
from ftune.peft.full import Full
from ftune.peft.lora import Lora
from ftune.ppo.build import build
from ftune.ppo.reward_adapter import PolicyBase
from tests.ppo.models import VOCABULARY, gradients, llama, lora, parts, sequences, stir

PAD = 2
"""Also the end-of-text token of the tiny model."""


def classifier(base: Path, **config: Any) -> Any:
    """The base with a classification head."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(base, **{"num_labels": 1, **config})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    llama().save_pretrained(folder)
    return folder


def reward_model(base: Path, folder: Path, labels: int, **fields: Any) -> Any:
    """A trained reward model, in memory and saved as TRL saves it."""
    torch.manual_seed(labels)
    model = Lora.model_validate({"rank": 4, "dropout": 0.1, **fields}).wrap(classifier(base, num_labels=labels))
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn(value.shape))
    model.save_pretrained(str(folder))
    return model.eval()


def rows(count: int = 32) -> list[list[int]]:
    """Of 1 to 11 tokens; half of them end with the token that pads, one is nothing else."""
    drawn = torch.Generator().manual_seed(4)
    made = [torch.randint(3, VOCABULARY, (1 + number % 11,), generator=drawn).tolist() for number in range(count)]
    return [[*row, PAD] if number % 2 else row for number, row in enumerate(made)] + [[PAD]]


@torch.no_grad()
def scores(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Of a stand-alone model, row by row; its own pooling would pass over an end-of-text token that also pads."""
    whole = model.get_base_model()
    hidden = [whole.model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
    out: torch.Tensor = whole.score(torch.stack(hidden))
    return out


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("fields", [{}, {"dora": True}, {"target_modules": ["q_proj"]}])
def test_it_scores_as_by_itself(labels: int, fields: dict[str, Any], base: Path, tmp_path: Path) -> None:
    alone = reward_model(base, tmp_path, labels, **fields)
    actor_critic = build(lora(), value="adapter")
    stir(actor_critic)
    names, before = list(actor_critic.trainable()), actor_critic("policy", *parts(sequences()))
    shared = PolicyBase(actor_critic, "base", "", micro_batch_size=5)
    score = shared.add_reward_adapter(str(tmp_path))
    found = score(rows())
    assert found.dtype == torch.float32
    assert found.shape == (33, labels)
    assert torch.allclose(found, scores(alone, rows()), atol=1e-5)
    assert list(actor_critic.trainable()) == names
    after = actor_critic("policy", *parts(sequences()))
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    actor_critic.train()
    assert torch.equal(score(rows()), found)


def test_activations_stay_checkpointed_right(base: Path, tmp_path: Path) -> None:
    """The reward model has adapters where the policy has none."""
    reward_model(base, tmp_path, 1)
    found = []
    for on in (False, True):
        actor_critic = build(lora(target_modules=["q_proj"]), value="adapter")
        actor_critic.checkpoint_activations(on)
        PolicyBase(actor_critic, "base", "", micro_batch_size=5).add_reward_adapter(str(tmp_path))
        stir(actor_critic)
        assert sum(module.training for module in actor_critic.modules()) == (3 if on else 0)
        out = actor_critic("policy", *parts(sequences()))
        (out.logprobs_BT.sum() + out.values_BT.square().sum()).backward()
        found.append(gradients(actor_critic))
    assert all(torch.allclose(value, found[1][name], rtol=1e-5, atol=1e-5) for name, value in found[0].items())


def test_several_reward_models_share_one_base(base: Path, tmp_path: Path) -> None:
    actor_critic = build(lora())
    shared = PolicyBase(actor_critic, "base", "", micro_batch_size=8)
    alone = [reward_model(base, tmp_path / str(labels), labels) for labels in (1, 2)]
    scorers = [shared.add_reward_adapter(str(tmp_path / str(labels))) for labels in (1, 2)]
    for model, scorer in zip(alone, scorers, strict=True):
        assert torch.allclose(scorer(rows()), scores(model, rows()), atol=1e-5)


def test_in_half_precision_too(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    reward_model(base, tmp_path, 1)
    alone = PeftModel.from_pretrained(classifier(base, dtype=torch.bfloat16), str(tmp_path)).eval()
    shared = PolicyBase(build(Lora(rank=4).wrap(llama().bfloat16())), "base", "", micro_batch_size=8)
    found = shared.add_reward_adapter(str(tmp_path))(rows())
    assert torch.allclose(found, scores(alone, rows()).float(), atol=2e-2)


def refused(actor_critic: Any, folder: Path) -> str:
    trained, names = list(actor_critic.trainable()), list(actor_critic.state_dict())
    with pytest.raises(ModelError) as raised:
        PolicyBase(actor_critic, "base", "", micro_batch_size=8).add_reward_adapter(str(folder))
    assert list(actor_critic.trainable()) == trained
    assert list(actor_critic.state_dict()) == names
    assert "memory: separate" in str(raised.value)
    return str(raised.value)


def test_what_cannot_be_shared_is_refused(base: Path, tmp_path: Path) -> None:
    reward_model(base, tmp_path, 1)
    assert "adapter in layers" in refused(build(Full().wrap(llama())), tmp_path)
    assert "peft.init" in refused(build(lora(init="pissa")), tmp_path)
    assert "cannot be put" in refused(build(Lora(rank=4).wrap(llama(hidden_size=64))), tmp_path)
    assert "does not fit" in refused(build(Lora(rank=4).wrap(llama(num_hidden_layers=1))), tmp_path)
    assert "cannot be put" in refused(build(lora()), tmp_path / "nothing")
    lora().save_pretrained(str(tmp_path / "headless"))
    assert "has none" in refused(build(lora()), tmp_path / "headless")
