"""One round of completions: prompts drawn, completed, judged by policy and reference, and scored."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ftune.ppo.averages import Averages
from ftune.ppo.experience import Judged, judge
from ftune.ppo.prompts import Prompt
from ftune.ppo.rollout.base import Engine, Rollout, Sampling
from ftune.ppo.sequences import collate
from ftune.rewards.suite import RewardSuite, SuiteScores
from ftune.rl.repetition import distinct, repetition

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Clock:
    """Seconds of each stage; on a GPU a stage ends when its work is done."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()
        self._mark = time.monotonic()

    def lap(self, stage: str) -> None:
        """The time since the last lap went into `stage`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.monotonic()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._mark
        self._mark = now


@dataclass(frozen=True, slots=True)
class Round:
    """Completions with everything that is known of them."""

    prompts: Sequence[Prompt]
    rollouts: list[Rollout]
    completions: list[str]
    judged: Judged
    scores: SuiteScores
    gold: SuiteScores | None

    @property
    def raw_B(self) -> torch.Tensor:
        """The weighted sums of the rewards; NaN where there is none."""
        totals = [float("nan") if total is None else total for total in self.scores.total]
        return torch.tensor(totals, dtype=torch.float32, device=self.judged.mask_BT.device)

    @property
    def stopped_B(self) -> torch.Tensor:
        """Whether the policy ended each completion itself."""
        return torch.tensor([rollout.stopped for rollout in self.rollouts], device=self.judged.mask_BT.device)

    def measure(self, averages: Averages) -> None:
        """Add what can be told of the completions before any update to `averages`."""
        judged, mask = self.judged, self.judged.mask_BT
        count, tokens = len(self.rollouts), mask.sum()
        raw = self.raw_B
        known = ~raw.isnan()
        averages.add("score", raw.nan_to_num(0.0).sum(), known.sum())
        for prefix, suite in (("reward", self.scores), ("gold", self.gold)):
            for label, values in (suite.by_source if suite else {}).items():
                given = [value for value in values if value is not None]
                averages.add(f"{prefix}/{label}", sum(given), len(given))
        difference = judged.logprobs_BT - judged.reference_BT
        averages.add("kl", judged.kl_B.sum(), count)
        k3 = ((-difference).clamp(-20, 20).exp() - 1 + difference) * mask
        averages.add("kl_k3", k3.sum(), count)
        averages.add("kl_per_token", judged.kl_B.sum(), tokens)
        averages.add("entropy", (judged.entropy_BT * mask).sum(), tokens)
        averages.add("length", tokens, count)
        averages.add("stopped", self.stopped_B.sum(), count)
        averages.add("distinct_2", count * distinct([rollout.token_ids for rollout in self.rollouts], 2), count)
        averages.add("repetition", sum(repetition(rollout.token_ids) for rollout in self.rollouts), count)
        gaps = [
            abs(mine - float(theirs))
            for row, rollout in zip(judged.logprobs_BT.tolist(), self.rollouts, strict=True)
            for mine, theirs in zip(rollout.logprobs or (), row, strict=False)
        ]
        averages.add("logprob_gap", sum(gaps), len(gaps))

    def samples(self, iteration: int, when: str, count: int) -> list[dict[str, Any]]:
        """The first completions as they are written to `samples.jsonl`."""
        return [
            {
                "iteration": iteration,
                "when": when,
                "row": prompt.origin,
                "prompt": prompt.text,
                "completion": completion,
                "score": total,
                "rewards": {label: values[place] for label, values in self.scores.by_source.items()},
                "gold": {label: values[place] for label, values in self.gold.by_source.items()} if self.gold else {},
                "kl": round(kl, 4),
                "stopped": rollout.stopped,
            }
            for place, (prompt, completion, total, kl, rollout) in enumerate(
                zip(
                    self.prompts[:count],
                    self.completions[:count],
                    self.scores.total[:count],
                    self.judged.kl_B[:count].tolist(),
                    self.rollouts[:count],
                    strict=True,
                )
            )
        ]


@dataclass(slots=True)
class Rounds:
    """Makes rounds, for training and for held-out prompts alike."""

    actor: Callable[..., Any]
    engine: Engine
    tokenizer: "PreTrainedTokenizerBase"
    rewards: RewardSuite
    gold: RewardSuite | None
    sampling: Sampling
    micro_batch_size: int
    has_reference: bool
    device: torch.device
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(self.device)

    def play(self, prompts: Sequence[Prompt], seed: int) -> Round:
        """Complete these prompts and find out everything about the completions."""
        self.clock = Clock(self.device)
        rollouts = self.engine.generate([prompt.ids for prompt in prompts], self.sampling, seed)
        self.engine.rest()
        self.clock.lap("rollout")
        sequences = collate(rollouts, int(self.tokenizer.pad_token_id), self.device)
        judged = judge(self.actor, sequences, self.micro_batch_size, reference=self.has_reference)
        self.clock.lap("scoring")
        completions = [self._text(rollout) for rollout in rollouts]
        samples = [
            prompt.sample(rollout, text) for prompt, rollout, text in zip(prompts, rollouts, completions, strict=True)
        ]
        scores = self.rewards.score(samples)
        gold = self.gold.score(samples) if self.gold else None
        self.clock.lap("rewards")
        return Round(prompts, rollouts, completions, judged, scores, gold)

    def _text(self, rollout: Rollout) -> str:
        ids = rollout.token_ids[:-1] if rollout.stopped else rollout.token_ids
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
