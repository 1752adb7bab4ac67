"""What ends a run before it has done harm, and what a person is warned of."""

from ftune.core.errors import DivergedError, ModelError
from ftune.ppo.settings import Guard
from ftune.ppo.state import State
from ftune.ppo.telling import Teller
from ftune.ppo.update import Updated

MAX_BAD_UPDATES = 3
"""Iterations in a row without a finite update, after which a run is given up."""

SAME = 1e-6
"""Standard deviation below which scores are the same."""

MAX_SAME_SCORES = 3
"""Iterations in a row in which no completion was better than another, after which a person is warned."""

KEPT_EVERY = 5
"""Iterations between policies that are kept for a guard, where neither held-out prompts nor checkpoints say when."""

DRIFT = 2.0
"""Factor by which held-out completions may change before a person is warned."""

DRIFTS = {
    "entropy": ("entropy", False),
    "distinct_2": ("the share of different token pairs", False),
    "length": ("the length", True),
}
"""What is watched, in words, and whether growing is a drift too."""

FP32_TOLERANCE, BF16_TOLERANCE = 1e-3, 0.2
"""Largest |ratio - 1| of any token of the first minibatch, whose policy is the one that made the rollouts."""


def allowed(guard: Guard, kl: float) -> bool:
    """Whether a policy of this KL to the reference may be the result."""
    return guard.max_kl is None or kl <= guard.max_kl


def reason_to_end(guard: Guard, state: State, means: dict[str, float]) -> str:
    """Why the run ends here, in words; empty when it goes on. Counts the iterations out of bounds in `state`."""
    over = not allowed(guard, means["kl"])
    state.above_kl = state.above_kl + 1 if over else 0
    under = guard.min_entropy is not None and not means["entropy"] >= guard.min_entropy
    state.below_entropy = state.below_entropy + 1 if under else 0
    if state.above_kl >= guard.patience:
        return f"KL {means['kl']:.3g} above guard.max_kl {guard.max_kl:g} for {state.above_kl} iterations"
    if state.below_entropy >= guard.patience:
        return f"entropy {means['entropy']:.3g} below guard.min_entropy {guard.min_entropy:g}"
    return ""


def check_first_ratio(gap: float, iteration: int, *, half_precision: bool) -> None:
    """In the first minibatch the policy is the one that made the rollouts, so its ratio is 1 for every token.

    Raises ModelError where it is not.
    """
    tolerance = BF16_TOLERANCE if half_precision else FP32_TOLERANCE
    if not gap <= tolerance:
        raise ModelError(
            f"iteration {iteration}: before any update the policy's ratio is off by {gap:.2g} (at most "
            f"{tolerance:g}); the model computes differently in training than in scoring, and PPO would learn from "
            f"the difference; this is a fault of ftune or of the model's code"
        )


def check_drift(state: State, means: dict[str, float], tell: Teller) -> None:
    """Say it once when held-out completions have become much poorer or of another length than before training.

    It is what a reward that is being gamed looks like from outside; the score alone only rises.
    """
    if not state.first_look:
        state.first_look = {name: means[name] for name in DRIFTS}
        return
    if state.drift_told:
        return
    changed = []
    for name, (words, may_grow) in DRIFTS.items():
        before, after = state.first_look[name], means[name]
        if after < before / DRIFT or (may_grow and after > before * DRIFT):
            changed.append(f"{words} went from {before:.3g} to {after:.3g}")
    if changed:
        state.drift_told = True
        tell.warning(
            f"iteration {state.iteration}: on held-out prompts {', '.join(changed)}; read samples.jsonl: the reward "
            "may be gamed; raise kl.coefficient, set guard.min_entropy, or add a reward against it"
        )


def check_health(state: State, done: Updated, tell: Teller) -> None:
    """Raises DivergedError after several iterations in which no update could be taken."""
    if done.skipped:
        tell.event("skipped", step=state.iteration, why=done.why, updates=done.skipped)
    state.bad_updates = state.bad_updates + 1 if done.skipped and not done.steps else 0
    if state.bad_updates == MAX_BAD_UPDATES:
        raise DivergedError(
            f"iteration {state.iteration}: no update could be taken in {MAX_BAD_UPDATES} iterations (last: "
            f"{done.why}); the last good checkpoint is kept; lower optim.learning_rate"
        )


def check_spread(state: State, spread: float, tell: Teller, *, scored: bool) -> None:
    """Say it once when all completions are worth the same: there is nothing that training could prefer.

    `scored`: whether any completion of this iteration has a score.
    """
    state.same_scores = state.same_scores + 1 if spread < SAME else 0
    if state.same_scores == MAX_SAME_SCORES:
        found = "every completion of the last {} iterations has the same score, so the policy learns nothing from it"
        if not scored:
            found = "no completion has a score, and in {} iterations none was better than another: nothing is learnt"
        tell.warning(f"{found.format(MAX_SAME_SCORES)}; look at samples.jsonl and at 'rewards'")
