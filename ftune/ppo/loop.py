"""The loop of PPO: rounds of completions, updates on them, and everything around that keeps a run safe and visible."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftune.core.errors import DivergedError, ModelError, RewardError, StorageError
from ftune.core.say import Say
from ftune.core.signals import StopSignal
from ftune.ppo.averages import Averages
from ftune.ppo.experience import Experience, experience
from ftune.ppo.progress import IterationProgress
from ftune.ppo.prompts import Prompt, drawn
from ftune.ppo.rounds import Round, Rounds
from ftune.ppo.samples import show_samples, write_samples
from ftune.ppo.schedule import learning_rate_factor
from ftune.ppo.settings import Guard, Kl, Score
from ftune.ppo.state import State, load_weights, save_best, save_checkpoint
from ftune.ppo.update import Learner, Updated, update
from ftune.report.events import EventLog
from ftune.report.measures import peak_memory_gib
from ftune.rl.kl import adapted_coefficient
from ftune.rl.moments import RunningMoments, explained_variance, masked_moments
from ftune.rl.scores import processed

MAX_BAD_UPDATES = 3
"""Iterations in a row without a finite update, after which a run is given up."""

SAME = 1e-6
"""Standard deviation below which scores are the same."""

MAX_SAME_SCORES = 3
"""Iterations in a row in which no completion was better than another, after which a person is warned."""

FP32_TOLERANCE, BF16_TOLERANCE = 1e-3, 0.2
"""Largest |ratio - 1| of any token of the first minibatch, whose policy is the one that made the rollouts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how much of it, and how often what."""

    iterations: int
    batch_size: int
    """Completions of one iteration on this rank."""
    completions_per_prompt: int
    warmup_iterations: int
    """Of the learning rate."""
    schedule: str
    value_warmup_iterations: int
    eval_every: int | None
    eval_completions: int
    """Completions of each held-out prompt."""
    checkpoint_every: int | None
    checkpoints_kept: int
    log_every: int
    samples_every: int | None
    samples: int
    """Samples shown and written at a time."""
    seed: int
    half_precision: bool
    """Whether products are in bf16, so that equal computations are equal up to its rounding."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    iteration: int
    iterations: int
    stopped_by: str = ""
    """Name of the signal that stopped it early."""
    ended_by: str = ""
    """The guard that ended it, in words."""
    kept_iteration: int | None = None
    """The iteration whose policy is the result, where that is not the last one."""


class PpoLoop:
    """A run: `train` goes from the state to the end, a signal or a guard."""

    def __init__(
        self,
        *,
        learner: Learner,
        rounds: Rounds,
        prompts: Sequence[Prompt],
        held_out: Sequence[Prompt],
        plan: Plan,
        kl: Kl,
        score: Score,
        guard: Guard,
        folder: Path,
        events: EventLog | None,
        say: Say,
        facts: dict[str, object],
    ) -> None:
        """`events` is None on ranks other than the first, which then write nothing and say nothing."""
        self.learner, self.rounds, self.prompts, self.held_out = learner, rounds, prompts, held_out
        self.plan, self.kl, self.score, self.guard = plan, kl, score, guard
        self.folder, self.events, self.say, self.facts = folder, events, say, facts
        self.rank, self.ranks = learner.accelerator.process_index, learner.accelerator.num_processes
        self.peaks = [float(group["lr"]) for group in learner.optimizer.param_groups]

    def train(self, state: State, stop: StopSignal) -> Outcome:
        """Iterate, evaluate and save. Raises DivergedError, ModelError, RewardError, StorageError."""
        try:
            ended_by, stopped = self._until(state, stop)
        except RewardError:  # the policy is as the last iteration left it
            if self.events is not None and not (self.folder / f"checkpoint-{state.iteration}").exists():
                self._save(lambda: self._write_checkpoint(state), "checkpoint", must=False)
            raise
        kept = None if stopped else self._go_back(state, ended_by)
        signal = stop.received.name if stop.received else "a signal to another process"
        return Outcome(state.iteration, self.plan.iterations, signal if stopped else "", ended_by, kept)

    def _until(self, state: State, stop: StopSignal) -> tuple[str, bool]:
        """Iterate until the end, a guard or a signal: why a guard ended it, and whether a signal did."""
        if state.iteration == 0 or (_due(state.iteration, self.plan.eval_every) and state.evaluated != state.iteration):
            self._evaluate(state)  # also what a stop left out
        ended_by, stopped = "", False
        with IterationProgress(self.say.console, self.plan.iterations, state.iteration) as progress:
            while state.iteration < self.plan.iterations and not (ended_by or stopped):
                seconds, line, ended_by = self._iterate(state)
                if self.events is not None:
                    progress.advance(state.iteration, seconds, line)
                ended = bool(ended_by) or state.iteration == self.plan.iterations
                if ended or (_due(state.iteration, self.plan.eval_every) and not self._received(stop)):
                    self._evaluate(state)
                stopped = not ended and self._received(stop)
                if ended or stopped or _due(state.iteration, self.plan.checkpoint_every):
                    self._checkpoint(state, must=stopped)
        return ended_by, stopped

    # -- one iteration -------------------------------------------------------------------------------------------------

    def _iterate(self, state: State) -> tuple[float, str, str]:
        """One iteration: its seconds, its line, and why the run ends here, if it does."""
        number, plan = state.iteration, self.plan
        prompts = drawn(self.prompts, number, plan.batch_size * self.ranks // plan.completions_per_prompt, plan.seed)
        mine = [prompt for prompt in prompts for _ in range(plan.completions_per_prompt)][self.rank :: self.ranks]
        play = self.rounds.play(mine, _seed(plan.seed, 2, number, self.rank))
        averages = Averages(self.rounds.device)
        play.measure(averages)
        if not self.held_out and _due(number, plan.checkpoint_every) and self._allowed(self._mean_kl(play)):
            self._keep(state)
        found, moments = self._experience(play, state, averages)
        value_only = number < plan.value_warmup_iterations
        self._set_learning_rate(number)
        done = update(
            self.learner,
            found,
            seed=[plan.seed, 3, number, self.rank],
            first_step=state.steps,
            value_only=value_only,
        )
        self.rounds.engine.policy_changed()
        self.rounds.clock.lap("update")
        self._check_first_update(state, done, averages)
        means = averages.reduced(self.learner.reduce) | done.averages.reduced(self.learner.reduce)
        state.iteration, state.steps, state.moments = number + 1, state.steps + done.steps + done.skipped, moments
        ended_by = self._guarded(state, means)
        facts = self._facts(state, play, found, done, means)
        line = self._tell(state, play, facts)
        if self.kl.controller == "adaptive":
            state.coefficient = adapted_coefficient(
                state.coefficient, means["kl"], self.kl.target, self.kl.horizon, plan.batch_size * self.ranks
            )
        self._check_health(state, done)
        self._check_spread(state, facts["score_std"])
        return sum(self.rounds.clock.seconds.values()), line, ended_by

    def _experience(self, play: Round, state: State, averages: Averages) -> tuple[Experience, dict[str, float]]:
        moments = RunningMoments.from_state(state.moments) if state.moments else RunningMoments()
        if self.score.normalize != "none":
            moments.update(play.raw_B - self.score.bias, self.learner.reduce)
        scores = processed(play.raw_B, play.stopped_B, self.score.rules(), moments)
        known = ~scores.isnan()
        averages.add("processed_score", scores.nan_to_num(0.0).sum(), known.sum())
        found = experience(
            play.judged,
            scores,
            play.stopped_B,
            settings=self.learner.settings,
            estimator=self.kl.estimator,
            coefficient=state.coefficient,
            reduce=self.learner.reduce,
        )
        tokens = found.mask_BT.sum()
        averages.add("value", (play.judged.values_BT * found.mask_BT).sum(), tokens)
        averages.add("returns", (found.returns_BT * found.mask_BT).sum(), tokens)
        return found, moments.state()

    def _set_learning_rate(self, iteration: int) -> None:
        factor = learning_rate_factor(iteration, self.plan.iterations, self.plan.warmup_iterations, self.plan.schedule)
        for group, peak in zip(self.learner.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = factor * peak

    # -- checks and guards ---------------------------------------------------------------------------------------------

    def _check_first_update(self, state: State, done: Updated, averages: Averages) -> None:
        """In the first minibatch the policy is the one that made the rollouts, so its ratio is 1 for every token."""
        averages.add("first_ratio_gap", done.first_ratio_gap)
        tolerance = BF16_TOLERANCE if self.plan.half_precision else FP32_TOLERANCE
        if done.first_ratio_gap > tolerance:
            raise ModelError(
                f"iteration {state.iteration + 1}: before any update the policy's ratio is off by "
                f"{done.first_ratio_gap:.2g} (at most {tolerance:g}); the model computes differently in training than "
                f"in scoring, and PPO would learn from the difference; this is a fault of ftune or of the model's code"
            )

    def _check_health(self, state: State, done: Updated) -> None:
        if done.skipped:
            self._event("skipped", step=state.iteration, why=done.why, updates=done.skipped)
        state.bad_updates = state.bad_updates + 1 if done.skipped and not done.steps else 0
        if state.bad_updates == MAX_BAD_UPDATES:
            raise DivergedError(
                f"iteration {state.iteration}: no update could be taken in {MAX_BAD_UPDATES} iterations (last: "
                f"{done.why}); the last good checkpoint is kept; lower optim.learning_rate"
            )

    def _check_spread(self, state: State, spread: float) -> None:
        """Say it once when all completions are worth the same: there is nothing that training could prefer."""
        state.same_scores = state.same_scores + 1 if spread < SAME else 0
        if state.same_scores == MAX_SAME_SCORES:
            self.say.warning(
                f"every completion of the last {MAX_SAME_SCORES} iterations has the same score, so the policy learns "
                "nothing from it; look at samples.jsonl and at 'rewards'"
            )

    def _guarded(self, state: State, means: dict[str, float]) -> str:
        """Why the run ends here, in words; empty when it goes on."""
        guard = self.guard
        over = not self._allowed(means["kl"])
        state.above_kl = state.above_kl + 1 if over else 0
        under = guard.min_entropy is not None and not means["entropy"] >= guard.min_entropy
        state.below_entropy = state.below_entropy + 1 if under else 0
        if state.above_kl >= guard.patience:
            return f"KL {means['kl']:.3g} above guard.max_kl {guard.max_kl:g} for {state.above_kl} iterations"
        if state.below_entropy >= guard.patience:
            return f"entropy {means['entropy']:.3g} below guard.min_entropy {guard.min_entropy:g}"
        return ""

    # -- held-out prompts ----------------------------------------------------------------------------------------------

    def _evaluate(self, state: State) -> None:
        """Complete and score the held-out prompts, always with the same draws; keep the policy if it is the best."""
        if not self.held_out:
            return
        asked = [prompt for prompt in self.held_out for _ in range(self.plan.eval_completions)]
        mine = asked[self.rank :: self.ranks] or asked[:1]
        play = self.rounds.play(mine, _seed(self.plan.seed, 4, 0, self.rank))
        averages = Averages(self.rounds.device)
        play.measure(averages)
        means = averages.reduced(self.learner.reduce)
        score, kl = means.get("score"), means["kl"]
        best = score is not None and self._allowed(kl) and (state.best_score is None or score > state.best_score)
        if best and self._keep(state):
            state.best_score = score
        state.evaluated = state.iteration
        self._event("eval", step=state.iteration, completions=len(asked), best=best, **means)
        when = "before" if state.iteration == 0 else f"iteration {state.iteration}"
        self._line(f"{when}: held-out score {_number(score)}, KL {kl:.3g}, {means['stopped']:.0%} ended by themselves")
        if self.events is not None:
            write_samples(self.folder, play.samples(state.iteration, "held-out", len(mine)))

    def _mean_kl(self, play: Round) -> float:
        """KL to the reference of the policy that made these completions, over all ranks."""
        averages = Averages(self.rounds.device)
        averages.add("kl", play.judged.kl_B.sum(), len(play.rollouts))
        return averages.reduced(self.learner.reduce)["kl"]

    def _allowed(self, kl: float) -> bool:
        return self.guard.max_kl is None or kl <= self.guard.max_kl

    def _keep(self, state: State) -> bool:
        """Keep the policy as it is now in `best/`; whether that could be done, on all ranks."""
        kept = not self.guard.keep_best or self.events is None
        if not kept:
            kept = self._save(lambda: save_best(self.folder, self.learner.inner), "best", must=False)
        if self._all(kept):
            state.best_iteration = state.iteration
            return True
        return False

    def _go_back(self, state: State, ended_by: str) -> int | None:
        """Go back to the policy that was kept, where it is not the last one; its iteration.

        Without held-out prompts the last one that was near enough to the reference is kept, for a run that the guard
        ends.
        """
        wanted = self.guard.keep_best and (self.held_out or ended_by)
        if not wanted or state.best_iteration in (None, state.iteration):
            return None
        self.learner.accelerator.wait_for_everyone()
        load_weights(self.folder / "best", self.learner.inner)
        return state.best_iteration

    # -- telling and saving --------------------------------------------------------------------------------------------

    def _facts(
        self, state: State, play: Round, found: Experience, done: Updated, means: dict[str, float]
    ) -> dict[str, Any]:
        """Everything that is told of an iteration."""
        reduce = self.learner.reduce
        _, variance, _ = masked_moments(found.raw_advantages_BT, found.mask_BT, reduce)
        _, spread, _ = masked_moments(play.raw_B, ~play.raw_B.isnan(), reduce)
        seconds = self.rounds.clock.seconds
        tokens = means["length"] * self.plan.batch_size * self.ranks
        facts: dict[str, Any] = {
            **means,
            "score_std": math.sqrt(float(spread)),
            "advantage_std": math.sqrt(float(variance)),
            "explained_variance": explained_variance(play.judged.values_BT, found.returns_BT, found.mask_BT, reduce),
            "kl_coefficient": state.coefficient,
            "learning_rate": self.learner.optimizer.param_groups[0]["lr"],
            "updates": done.steps,
            "stopped_early": done.stopped_early,
            "tokens": int(tokens),
            "tokens_per_s": round(tokens / sum(seconds.values()), 1),
            "rollout_tokens_per_s": round(tokens / seconds["rollout"], 1),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "memory_gib": round(peak_memory_gib(), 3),
        }
        return facts

    def _tell(self, state: State, play: Round, facts: dict[str, Any]) -> str:
        """Write the iteration's event and samples; the line that is shown of it."""
        if _due(state.iteration, self.plan.log_every) or state.iteration == self.plan.iterations:
            self._event("step", step=state.iteration, **facts)
        if self.events is not None and _due(state.iteration, self.plan.samples_every):
            samples = play.samples(state.iteration, "training", self.plan.samples)
            write_samples(self.folder, samples)
            show_samples(self.say, f"iteration {state.iteration}:", samples[:2])
        return (
            f"score {_number(facts.get('score'))}  KL {facts['kl']:.3g}  entropy {facts['entropy']:.3g}  "
            f"length {facts['length']:.0f}  clipped {facts.get('clip_fraction', 0.0):.1%}  "
            f"{facts['tokens_per_s']:,.0f} tok/s  {facts['memory_gib']:.1f} GiB"
        )

    def _checkpoint(self, state: State, *, must: bool) -> None:
        if self.events is not None:
            self._save(lambda: self._write_checkpoint(state), "checkpoint", must=must)
        self.learner.accelerator.wait_for_everyone()

    def _write_checkpoint(self, state: State) -> None:
        path = save_checkpoint(
            self.folder,
            state,
            self.learner.inner,
            self.learner.optimizer,
            keep=self.plan.checkpoints_kept,
            facts={"world_size": self.ranks, "max_steps": self.plan.iterations, **self.facts},
        )
        self._event("checkpoint", step=state.iteration, path=path.name)

    def _save(self, write: Callable[[], None], what: str, *, must: bool) -> bool:
        """Whether it was saved. A full disk does not end a run that can still finish, but one that must be saved."""
        try:
            write()
        except StorageError as error:
            if must:
                raise
            self._event("save_failed", what=what, why=str(error))
            self.say.warning(f"{what} not saved, training goes on: {error}")
            return False
        return True

    def _received(self, stop: StopSignal) -> bool:
        """Whether a signal came to any rank."""
        return not self._all(stop.received is None)

    def _all(self, flag: bool) -> bool:
        """Whether it is so on every rank."""
        return not float(self.learner.reduce(torch.tensor(float(not flag), device=self.rounds.device)))

    def _event(self, kind: str, **facts: object) -> None:
        if self.events is not None:
            self.events.write(kind, **facts)

    def _line(self, text: str) -> None:
        if self.events is not None:
            self.say.line(text)


def _due(iteration: int, every: int | None) -> bool:
    return every is not None and iteration % every == 0


def _seed(*parts: int) -> int:
    """One seed out of several numbers, different for different ones."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
