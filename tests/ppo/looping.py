"""Whole runs of the loop on a tiny model, whose reward is a plain function."""

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ftune.backends.ranks import Ranks
from ftune.core.say import Say
from ftune.core.signals import StopSignal
from ftune.data.example import PromptCompletion
from ftune.peft.lora import Lora
from ftune.ppo.actor_critic import ActorCritic
from ftune.ppo.build import build
from ftune.ppo.loop import PpoLoop
from ftune.ppo.optimizer import make_optimizer
from ftune.ppo.plan import Outcome, Plan
from ftune.ppo.prompts import Prompt
from ftune.ppo.rollout.base import Policy
from ftune.ppo.rollout.generate import Generate
from ftune.ppo.rounds import Rounds
from ftune.ppo.settings import Algorithm, Guard, Kl, Score
from ftune.ppo.state import State, load_checkpoint
from ftune.ppo.update import Learner
from ftune.report.events import Event, EventLog, read_events
from ftune.rewards.base import Sample, Scorer, Surroundings
from ftune.rewards.suite import RewardSuite
from ftune.rl.moments import identity
from tests.ppo.models import llama

VOCABULARY = 97
WANTED = frozenset(range(3, 13))
"""Ten tokens, about a tenth of all that a random model writes."""

Reward = Callable[[Sequence[Sample]], list[float | None]]


def share(samples: Sequence[Sample]) -> list[float | None]:
    """The share of wanted tokens."""
    return [sum(token in WANTED for token in sample.token_ids) / len(sample.token_ids) for sample in samples]


@dataclass(frozen=True)
class Source:
    """A reward source around a function."""

    function: Reward
    weight: float = 1.0

    def title(self) -> str:
        """Its name in logs."""
        return "share"

    def open(self, around: Surroundings) -> Scorer:
        """Ready at once."""
        return self.function


@cache
def tokenizer() -> Any:
    """One word for each token; the pad token is the end token, as in many models."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(VOCABULARY)}
    made = Tokenizer(models.WordLevel(words, unk_token="w1"))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="w2", pad_token="w2", unk_token="w1")


def prompts(count: int, start: int = 0) -> list[Prompt]:
    """Prompts of 3 to 6 tokens."""
    made = []
    for number in range(start, start + count):
        ids = [3 + (7 * number + 11 * place) % (VOCABULARY - 3) for place in range(3 + number % 4)]
        text = " ".join(f"w{token}" for token in ids)
        made.append(Prompt(ids, PromptCompletion(text, ""), origin=f"rows.jsonl:{number + 1}"))
    return made


@dataclass
class Run:
    """A run in a folder of its own: what a recipe would say, and what came of it."""

    folder: Path
    reward: Reward = share
    plan: dict[str, Any] = field(default_factory=dict)
    algorithm: dict[str, Any] = field(default_factory=dict)
    kl: dict[str, Any] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    held_out: int = 0
    learning_rate: float = 1e-2
    new_tokens: int = 6
    batch_size: int = 16
    layers: int = 2
    seed: int = 0
    actor: ActorCritic = field(init=False)
    state: State = field(init=False)
    stop: StopSignal = field(init=False)

    def go(self, resume: Path | None = None) -> Outcome:
        """Start, or go on from a checkpoint, until the loop ends."""
        self.folder.mkdir(exist_ok=True)
        self.stop = StopSignal()
        step = int(resume.name.removeprefix("checkpoint-")) if resume else None
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so small a model is faster so
        try:
            with EventLog(self.folder / "events.jsonl", resume_step=step) as events:
                loop = self._loop(events)
                self.state = State(coefficient=loop.kl.coefficient)
                if resume is not None:
                    self.state = load_checkpoint(resume, self.actor, loop.learner.optimizer)
                return loop.train(self.state, self.stop)
        finally:
            torch.set_num_threads(threads)

    def stopping_at(self, iteration: int) -> Reward:
        """The reward, in whose call of this number (held-out completions count too) a signal comes."""
        calls = 0

        def function(samples: Sequence[Sample]) -> list[float | None]:
            nonlocal calls
            calls += 1
            if calls == iteration:
                self.stop.received = signal.SIGTERM
            return share(samples)

        return function

    def events(self, kind: str) -> list[Event]:
        """Those of one kind, in the history that counts."""
        return [event for event in read_events(self.folder / "events.jsonl") if event["kind"] == kind]

    def samples(self) -> list[dict[str, Any]]:
        """What was written for people to read."""
        return [json.loads(line) for line in (self.folder / "samples.jsonl").read_text().splitlines()]

    def _loop(self, events: EventLog) -> PpoLoop:
        torch.manual_seed(self.seed)
        model = llama(self.seed, vocab_size=VOCABULARY, num_hidden_layers=self.layers, tie_word_embeddings=False)
        self.actor = build(Lora(rank=8).wrap(model))
        optimizer = make_optimizer(
            "adamw", self.actor.parameter_groups(), {"policy": self.learning_rate, "value": 1e-2},
            betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0,
        )  # fmt: skip
        settings = Algorithm.model_validate({"minibatch_size": 8, "micro_batch_size": 8, **self.algorithm})
        guard = Guard.model_validate({"target_kl": None, "max_kl": None, **self.guard})
        rounds = Rounds(
            actor=self.actor,
            engine=Generate().open(Policy(self.actor.model, pad_id=2, stop_ids=(2,))),
            tokenizer=tokenizer(),
            rewards=RewardSuite([Source(self.reward)], Surroundings()),  # type: ignore[list-item]
            gold=None,
            sampling=Generate(max_new_tokens=self.new_tokens).sampling(),
            micro_batch_size=16,
            has_reference=True,
            device=torch.device("cpu"),
        )
        learner = Learner(
            actor=self.actor, inner=self.actor, optimizer=optimizer, accelerator=Accelerator(cpu=True),
            settings=settings, reduce=identity, max_grad_norm=1.0, target_kl=guard.target_kl,
        )  # fmt: skip
        plan: dict[str, Any] = {
            "iterations": 4, "batch_size": self.batch_size, "completions_per_prompt": 1, "warmup_iterations": 0,
            "schedule": "constant", "value_warmup_iterations": 0, "eval_every": None, "eval_completions": 2,
            "checkpoint_every": None, "checkpoints_kept": 2, "log_every": 1, "samples_every": None, "samples": 4,
            "seed": self.seed, "half_precision": False,
        }  # fmt: skip
        return PpoLoop(
            ranks=Ranks(), learner=learner, rounds=rounds, prompts=prompts(40), held_out=prompts(self.held_out, 40),
            plan=Plan(**{**plan, **self.plan}), kl=Kl.model_validate(self.kl), score=Score.model_validate(self.score),
            guard=guard, folder=self.folder, events=events, say=Say(), facts={},
        )  # fmt: skip
