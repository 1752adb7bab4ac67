"""What a run says and writes of its iterations: events, samples and lines."""

import math
from pathlib import Path
from typing import Any

from ftune.core.say import Say
from ftune.ppo.experience import Experience
from ftune.ppo.plan import Plan, due
from ftune.ppo.rounds import Round
from ftune.ppo.samples import show_samples, write_samples
from ftune.ppo.update import Updated
from ftune.report.events import EventLog
from ftune.report.measures import peak_memory_gib
from ftune.rl.moments import Reduce, explained_variance, masked_moments


class Teller:
    """Speaks, and writes into the run's folder."""

    def __init__(self, folder: Path, events: EventLog, say: Say, plan: Plan, *, writes: bool) -> None:
        """On ranks other than the first nothing `writes` samples, and `events` are not written either."""
        self.say = say
        self._folder, self._events, self._plan, self._writes = folder, events, plan, writes

    def event(self, kind: str, **facts: object) -> None:
        """Raises StorageError."""
        self._events.write(kind, **facts)

    def line(self, text: str) -> None:
        """One line of progress."""
        self.say.line(text)

    def warning(self, text: str) -> None:
        """Something that a person should know, though the run goes on."""
        self.say.warning(text)

    def iteration(self, number: int, play: Round, facts: dict[str, Any]) -> None:
        """Write the iteration's event and samples. Raises StorageError."""
        if due(number, self._plan.log_every) or number == self._plan.iterations:
            self.event("step", step=number, **facts)
        if self._writes and due(number, self._plan.samples_every):
            samples = play.samples(number, "training", self._plan.samples)
            write_samples(self._folder, samples)
            show_samples(self.say, f"iteration {number}:", samples[:2])

    def evaluation(self, number: int, play: Round, facts: dict[str, Any]) -> None:
        """Write and say how the held-out prompts were completed. Raises StorageError."""
        self.event("eval", step=number, **facts)
        when = f"iteration {number}" if number else "before"
        score, kl, stopped = _number(facts.get("score")), facts["kl"], facts["stopped"]
        self.line(f"{when}: held-out score {score}, KL {kl:.3g}, {stopped:.0%} ended by themselves")
        if self._writes:
            write_samples(self._folder, play.samples(number, "held-out", len(play.prompts)))


def facts_of(
    play: Round,
    found: Experience,
    done: Updated,
    means: dict[str, float],
    *,
    seconds: dict[str, float],
    completions: int,
    reduce: Reduce,
) -> dict[str, Any]:
    """Everything that is told of an iteration with so many completions over all ranks."""
    _, variance, _ = masked_moments(found.raw_advantages_BT, found.mask_BT, reduce)
    _, spread, _ = masked_moments(play.raw_B, ~play.raw_B.isnan(), reduce)
    tokens = means["length"] * completions
    return {
        **means,
        "score_std": math.sqrt(float(spread)),
        "advantage_std": math.sqrt(float(variance)),
        "explained_variance": explained_variance(play.judged.values_BT, found.returns_BT, found.mask_BT, reduce),
        "updates": done.steps,
        "stopped_early": done.stopped_early,
        "tokens": int(tokens),
        "tokens_per_s": round(tokens / sum(seconds.values()), 1),
        "rollout_tokens_per_s": round(tokens / seconds["rollout"], 1),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "memory_gib": round(peak_memory_gib(), 3),
    }


def line_of(facts: dict[str, Any]) -> str:
    """What is shown of an iteration."""
    return (
        f"score {_number(facts.get('score'))}  KL {facts['kl']:.3g}  entropy {facts['entropy']:.3g}  "
        f"length {facts['length']:.0f}  clipped {facts.get('clip_fraction', 0.0):.1%}  "
        f"{facts['tokens_per_s']:,.0f} tok/s  {facts['memory_gib']:.1f} GiB"
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
