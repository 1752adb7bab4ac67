"""One PPO step equals its equations, written down a second time: slowly, in float64, token by token.

Nothing of `ftune.rl` is used here, and of the model only its plain forward pass over one sequence at a time.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from ftune.ppo.actor_critic import ActorCritic
from ftune.ppo.build import build
from ftune.ppo.experience import experience
from ftune.ppo.settings import Algorithm
from ftune.ppo.update import update
from tests.ppo.learning import Recording, judged, learner
from tests.ppo.models import lora, sequences, stir

ROWS = 7
TEMPERATURE = 0.7
SCORES = [1.0, -2.0, 0.5, 3.0, None, -0.5, 2.0]
STOPPED = [True, False, True, True, True, False, True]
BATCH = sequences(ROWS, seed=5)

PLAIN: dict[str, Any] = {"entropy_coefficient": 0.05, "value_coefficient": 0.3, "clip_range": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "whitened": PLAIN,
    "k3, dual clip, cut completions go on": {
        **PLAIN, "estimator": "k3", "dual_clip": 1.1, "truncated": "bootstrap", "gamma": 0.9, "lam": 0.8,
    },
    "k2, nothing whitened or cut": {
        **PLAIN, "estimator": "k2", "whiten_advantages": False, "value_clip_range": None, "clip_range_high": 0.4,
    },
    "rewards whitened, cut completions left out": {**PLAIN, "whiten_rewards": True, "truncated": "mask"},
    "absolute": {**PLAIN, "estimator": "abs", "lam": 1.0},
}  # fmt: skip


@dataclass
class Token:
    """One token of a response: what was known before the update, and what the losses need."""

    logprob: torch.Tensor
    entropy: torch.Tensor
    value: torch.Tensor
    reference: float = 0.0
    reward: float = 0.0
    advantage: float = 0.0
    returned: float = 0.0


@dataclass
class Response:
    """One response; `after` is the value of the state behind its last token."""

    after: torch.Tensor
    tokens: list[Token] = field(default_factory=list)


def response(actor: ActorCritic, row: int, *, reference: bool = False) -> Response:
    """The plain forward pass over one unpadded sequence, and the numbers of its response."""
    start, end = int(BATCH.starts_B[row]), int(BATCH.ends_B[row])
    with actor.model.disable_adapter() if reference else nullcontext():
        out = actor.model(input_ids=BATCH.ids_BS[row : row + 1, :end], output_hidden_states=True)
    hidden = out.hidden_states[-1][0]
    values = hidden @ actor.value_head.weight[0] + actor.value_head.bias[0]
    found = Response(after=values[end - 1])
    for place in range(start, end):
        logprobs = torch.log_softmax(out.logits[0, place - 1] / TEMPERATURE, -1)
        entropy = -(logprobs.exp() * logprobs).sum()
        found.tokens.append(Token(logprobs[BATCH.ids_BS[row, place]], entropy, values[place - 1]))
    return found


def penalty(kind: str, logprob: float, reference: float) -> float:
    difference = torch.tensor(logprob - reference, dtype=torch.float64)
    kinds = {
        "k1": difference,
        "k2": difference**2 / 2,
        "k3": (torch.exp(-difference) - 1 + difference).clamp(max=10.0),  # it grows without bound
        "abs": difference.abs(),
    }
    return float(kinds[kind])


def whitened(numbers: list[float], *, shift: bool) -> list[float]:
    mean = sum(numbers) / len(numbers)
    variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
    return [(number - mean) / (variance + 1e-8) ** 0.5 + (0.0 if shift else mean) for number in numbers]


@torch.no_grad()
def remembered(actor: ActorCritic, case: dict[str, Any]) -> dict[int, Response]:
    """What is known before the update, of the responses that count."""
    kept = {}
    for row in range(ROWS):
        if SCORES[row] is None or (case.get("truncated") == "mask" and not STOPPED[row]):
            continue
        kept[row] = response(actor, row)
        base = response(actor, row, reference=True)
        for token, other in zip(kept[row].tokens, base.tokens, strict=True):
            token.reference = float(other.logprob)
            token.reward = -0.1 * penalty(case.get("estimator", "k1"), float(token.logprob), token.reference)
        kept[row].tokens[-1].reward += SCORES[row]
    every = [token for one in kept.values() for token in one.tokens]
    if case.get("whiten_rewards"):
        for token, reward in zip(every, whitened([token.reward for token in every], shift=False), strict=True):
            token.reward = reward
    for row, one in kept.items():
        going_on = case.get("truncated") == "bootstrap" and not STOPPED[row]
        following, advantage = float(one.after) if going_on else 0.0, 0.0
        for token in reversed(one.tokens):
            delta = token.reward + case.get("gamma", 1.0) * following - float(token.value)
            advantage = delta + case.get("gamma", 1.0) * case.get("lam", 0.95) * advantage
            token.advantage, token.returned = advantage, advantage + float(token.value)
            following = float(token.value)
    if case.get("whiten_advantages", True):
        for token, advantage in zip(every, whitened([token.advantage for token in every], shift=True), strict=True):
            token.advantage = advantage
    return kept


def losses(old: Token, new: Token, case: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one token: policy and value."""
    low, high = 1 - case["clip_range"], 1 + case.get("clip_range_high", case["clip_range"])
    ratio = torch.exp(new.logprob - old.logprob)
    policy = torch.maximum(-old.advantage * ratio, -old.advantage * ratio.clamp(low, high))
    if "dual_clip" in case and old.advantage < 0:
        policy = torch.minimum(policy, torch.tensor(-case["dual_clip"] * old.advantage, dtype=torch.float64))
    value = (new.value - old.returned) ** 2
    if (reach := case.get("value_clip_range", 0.2)) is not None:
        near = old.value + (new.value - old.value).clamp(-reach, reach)
        value = torch.maximum(value, (near - old.returned) ** 2)
    return policy, value / 2


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_what_the_equations_say(name: str) -> None:
    case = CASES[name]
    actor = build(lora(), temperature=TEMPERATURE)
    stir(actor)
    exact = copy.deepcopy(actor).double()
    known = remembered(exact, case)
    stir(actor, seed=3, scale=0.03)  # several minibatches later: ratios are not 1
    exact_new = copy.deepcopy(actor).double()
    policy = value = entropy = torch.zeros((), dtype=torch.float64)
    for row, old in known.items():
        for before, now in zip(old.tokens, response(exact_new, row).tokens, strict=True):
            of_policy, of_value = losses(before, now, case)
            policy, value, entropy = policy + of_policy, value + of_value, entropy + now.entropy
    count = sum(len(one.tokens) for one in known.values())
    total = (policy + case["value_coefficient"] * value - case["entropy_coefficient"] * entropy) / count
    total.backward()
    wanted = {name: parameter.grad for name, parameter in exact_new.trainable().items()}

    settings = {key: setting for key, setting in case.items() if key != "estimator"}
    before = judged(exact.float(), BATCH)
    found = experience(
        before,
        torch.tensor([float("nan") if score is None else score for score in SCORES]),
        torch.tensor(STOPPED),
        settings=Algorithm.model_validate({"micro_batch_size": 2, "minibatch_size": 8, **settings}),
        estimator=case.get("estimator", "k1"),
        coefficient=0.1,
        reduce=lambda tensor: tensor,
    )
    recording = Recording(actor)
    done = update(
        learner(actor, recording, micro_batch_size=2, **settings), found, seed=[0], first_step=0, value_only=False
    )
    means = done.averages.reduced(lambda tensor: tensor)
    assert done.steps == 1
    assert means["policy_loss"] == pytest.approx(float(policy.detach() / count), rel=1e-5)
    assert means["value_loss"] == pytest.approx(float(value.detach() / count), rel=1e-5)
    assert means["clip_fraction"] > 0
    for name, gradient in recording.seen[0].items():
        difference = (gradient.double() - wanted[name]).norm() / wanted[name].norm()
        assert difference <= 1e-5, name
    assert recording.seen[0].keys() == wanted.keys()
