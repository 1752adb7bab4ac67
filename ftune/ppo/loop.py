"""The loop of PPO: rounds of completions and updates on them, iteration by iteration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftune.backends.engines.sharding import unsharded
from ftune.backends.ranks import Ranks
from ftune.core.errors import ModelError, RewardError, StorageError
from ftune.core.say import Say
from ftune.core.signals import StopSignal
from ftune.ppo.averages import Averages
from ftune.ppo.experience import Experience, experience
from ftune.ppo.guards import (
    KEPT_EVERY,
    allowed,
    check_drift,
    check_first_ratio,
    check_health,
    check_spread,
    reason_to_end,
)
from ftune.ppo.keeping import Keeper
from ftune.ppo.plan import Outcome, Plan, due
from ftune.ppo.progress import IterationProgress
from ftune.ppo.prompts import Prompt, drawn
from ftune.ppo.rounds import Round, Rounds
from ftune.ppo.schedule import learning_rate_factor
from ftune.ppo.settings import Guard, Kl, Score
from ftune.ppo.state import State
from ftune.ppo.telling import Teller, facts_of, line_of
from ftune.ppo.update import Learner, update
from ftune.report.events import EventLog
from ftune.rl.kl import adapted_coefficient
from ftune.rl.moments import RunningMoments
from ftune.rl.scores import processed


class PpoLoop:
    """A run: `train` goes from the state to the end, a signal or a guard."""

    def __init__(
        self,
        *,
        ranks: Ranks,
        learner: Learner,
        rounds: Rounds,
        prompts: Sequence[Prompt],
        held_out: Sequence[Prompt],
        plan: Plan,
        kl: Kl,
        score: Score,
        guard: Guard,
        folder: Path,
        events: EventLog,
        say: Say,
        facts: dict[str, object],
    ) -> None:
        self.learner, self.rounds, self.prompts, self.held_out = learner, rounds, prompts, held_out
        self.plan, self.kl, self.score, self.guard = plan, kl, score, guard
        self.ranks = ranks
        self.tell = Teller(folder, events, say, plan, writes=ranks.first)
        facts = {"world_size": self.ranks.count, "max_steps": plan.iterations, **facts}
        self.keeper = Keeper(folder, learner, self.ranks, self.tell, plan.checkpoints_kept, facts)
        self.peaks = [float(group["lr"]) for group in learner.optimizer.param_groups]

    def train(self, state: State, stop: StopSignal) -> Outcome:
        """Iterate, evaluate and save. Raises DivergedError, ModelError, RewardError, StorageError."""
        if state.best_iteration is not None and self.guard.keep_best and (problems := self.keeper.lacks_best()):
            self.tell.warning(
                f"the policy of iteration {state.best_iteration} that was the best one is lost (best/ "
                f"{'; '.join(problems)}); the best one from here on will be the result"
            )
            state.best_iteration = state.best_score = None
        stopped = self._until(state, stop)
        kept = None if stopped else self._go_back(state)
        signal = stop.received.name if stop.received else "a signal to another process"
        return Outcome(state.iteration, self.plan.iterations, signal if stopped else "", state.ended_by, kept)

    def _until(self, state: State, stop: StopSignal) -> bool:
        """Iterate until the end, a guard or a signal, and whether it was a signal."""
        if self._owes_evaluation(state):
            self._evaluate(state)
            if self._is_over(state):
                self.keeper.checkpoint(state, must=False)  # in place of the one that did not know of it
        stopped = False
        with IterationProgress(self.tell.say.console, self.plan.iterations, state.iteration) as progress:
            while not (self._is_over(state) or stopped):
                seconds, line = self._iterate(state)
                if self.ranks.first:
                    progress.advance(state.iteration, seconds, line)
                ended = self._is_over(state)
                if ended or (due(state.iteration, self.plan.eval_every) and not self._received(stop)):
                    self._evaluate(state)
                stopped = not ended and self._received(stop)
                if ended or stopped or due(state.iteration, self.plan.checkpoint_every):
                    self.keeper.checkpoint(state, must=stopped)
        return stopped

    def _is_over(self, state: State) -> bool:
        """Whether no further iteration comes, be it that a guard has ended the run."""
        return bool(state.ended_by) or state.iteration >= self.plan.iterations

    # -- one iteration -------------------------------------------------------------------------------------------------

    def _iterate(self, state: State) -> tuple[float, str]:
        """One iteration: its seconds and its line."""
        number, plan, ranks = state.iteration, self.plan, self.ranks
        completions = plan.batch_size * ranks.count
        prompts = drawn(self.prompts, number, completions // plan.completions_per_prompt, plan.seed)
        mine = [prompt for prompt in prompts for _ in range(plan.completions_per_prompt)][ranks.rank :: ranks.count]
        play = self._play(state, mine, _seed(plan.seed, 2, number, ranks.rank))
        averages = Averages(self.rounds.device)
        play.measure(averages)
        if not self.held_out and due(number, plan.checkpoint_every or KEPT_EVERY) and self._is_allowed(play):
            self._keep(state)
        found, moments = self._experience(play, state, averages)
        self._set_learning_rate(number)
        done = update(
            self.learner,
            found,
            seed=[plan.seed, 3, number, ranks.rank],
            first_step=state.steps,
            value_only=number < plan.value_warmup_iterations,
        )
        self.rounds.engine.policy_changed()
        self.rounds.clock.lap("update")
        averages.add("first_ratio_gap", done.first_ratio_gap)
        with ranks.together(ModelError):
            check_first_ratio(done.first_ratio_gap, number + 1, half_precision=plan.half_precision)
        means = averages.reduced(ranks.sum) | done.averages.reduced(ranks.sum)
        state.iteration, state.steps, state.moments = number + 1, state.steps + done.steps + done.skipped, moments
        state.ended_by = reason_to_end(self.guard, state, means)
        seconds = self.rounds.clock.seconds
        facts = facts_of(play, found, done, means, seconds=seconds, completions=completions, reduce=ranks.sum)
        facts["kl_coefficient"] = state.coefficient
        facts["learning_rate"] = self.learner.optimizer.param_groups[0]["lr"]
        if self.kl.controller == "adaptive":
            state.coefficient = adapted_coefficient(
                state.coefficient, means["kl"], self.kl.target, self.kl.horizon, completions
            )
        with ranks.together(StorageError):
            self.tell.iteration(state.iteration, play, facts)
            check_health(state, done, self.tell)
            check_spread(state, facts["score_std"], self.tell, scored="score" in means)
        return sum(seconds.values()), line_of(facts)

    def _play(self, state: State, prompts: Sequence[Prompt], seed: int) -> Round:
        """A round, which fails on all ranks or on none. Raises RewardError where another rank's has failed."""
        try:
            with unsharded(self.learner.inner), self.ranks.together(RewardError):
                return self.rounds.play(prompts, seed)
        except Exception:  # on every rank; the policy is as the last iteration left it
            self.keeper.rescue(state)
            raise

    def _experience(self, play: Round, state: State, averages: Averages) -> tuple[Experience, dict[str, float]]:
        moments = RunningMoments.from_state(state.moments) if state.moments else RunningMoments()
        if self.score.normalize != "none":
            moments.update(play.raw_B - self.score.bias, self.ranks.sum)
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
            reduce=self.ranks.sum,
        )
        tokens = found.mask_BT.sum()
        averages.add("value", (play.judged.values_BT * found.mask_BT).sum(), tokens)
        averages.add("returns", (found.returns_BT * found.mask_BT).sum(), tokens)
        return found, moments.state()

    def _set_learning_rate(self, iteration: int) -> None:
        factor = learning_rate_factor(iteration, self.plan.iterations, self.plan.warmup_iterations, self.plan.schedule)
        for group, peak in zip(self.learner.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = factor * peak

    # -- held-out prompts, and the policy that is kept -----------------------------------------------------------------

    def _owes_evaluation(self, state: State) -> bool:
        """Whether the policy has yet to be looked at: before training, or where a stop or a failure came first."""
        if not self.held_out or state.evaluated == state.iteration:
            return False
        return state.iteration == 0 or self._is_over(state) or due(state.iteration, self.plan.eval_every)

    def _evaluate(self, state: State) -> None:
        """Complete and score the held-out prompts, always with the same draws; keep the policy if it is the best."""
        if not self.held_out:
            return
        asked = [prompt for prompt in self.held_out for _ in range(self.plan.eval_completions)]
        mine = asked[self.ranks.rank :: self.ranks.count] or asked[:1]
        play = self._play(state, mine, _seed(self.plan.seed, 4, 0, self.ranks.rank))
        averages = Averages(self.rounds.device)
        play.measure(averages)
        means = averages.reduced(self.ranks.sum)
        score = means.get("score")
        better = score is not None and (state.best_score is None or score > state.best_score)
        best = better and allowed(self.guard, means["kl"]) and self._keep(state)
        if best:
            state.best_score = score
        state.evaluated = state.iteration
        facts: dict[str, Any] = {"completions": len(asked), "best": best, **means}
        with self.ranks.together(StorageError):
            self.tell.evaluation(state.iteration, play, facts)
            check_drift(state, means, self.tell)

    def _is_allowed(self, play: Round) -> bool:
        """Whether the policy that made these completions, on all ranks, is near enough to the reference."""
        averages = Averages(self.rounds.device)
        averages.add("kl", play.judged.kl_B.sum(), len(play.rollouts))
        return allowed(self.guard, averages.reduced(self.ranks.sum)["kl"])

    def _keep(self, state: State) -> bool:
        """Keep the policy as it is now; whether that could be done."""
        if self.guard.keep_best and not self.keeper.best():
            return False
        state.best_iteration = state.iteration
        return True

    def _go_back(self, state: State) -> int | None:
        """Go back to the policy that was kept, where it is not the last one; its iteration.

        Without held-out prompts the last one that was near enough to the reference is kept, for a run that the guard
        ends.
        """
        wanted = self.guard.keep_best and (self.held_out or state.ended_by)
        if not wanted or state.best_iteration in (None, state.iteration):
            return None
        self.keeper.go_back()
        return state.best_iteration

    def _received(self, stop: StopSignal) -> bool:
        """Whether a signal came to any rank."""
        return not self.ranks.all(stop.received is None)


def _seed(*parts: int) -> int:
    """One seed out of several numbers, different for different ones."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
