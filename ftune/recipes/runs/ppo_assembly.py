"""The loop of a run of PPO, put together of its parts."""

from pathlib import Path
from typing import TYPE_CHECKING

from ftune.backends.ranks import Ranks
from ftune.core.errors import FtuneError
from ftune.core.say import Say
from ftune.recipes.runs.ppo_asked import Asked
from ftune.recipes.runs.ppo_parts import make_actor, make_optimizer_of, open_engine, open_rewards, text_beside
from ftune.recipes.runs.ppo_processes import Processes, open_processes
from ftune.report.events import EventLog

if TYPE_CHECKING:
    from ftune.ppo.loop import PpoLoop
    from ftune.ppo.plan import Plan
    from ftune.recipes.ppo import PpoRecipe


def assemble(
    recipe: "PpoRecipe",
    folder: Path,
    events: EventLog,
    asked: Asked,
    ranks: Ranks,
    say: Say,
    processes: Processes | None = None,
) -> "PpoLoop":
    """Load everything and try it, on every rank, in `processes` that are open or are opened here.

    Raises LaunchError, ModelError and RewardError.
    """
    from ftune.ppo.loop import PpoLoop
    from ftune.ppo.rounds import Rounds
    from ftune.ppo.update import Learner

    processes = processes or open_processes(recipe, ranks, say)
    accelerator, dtype = processes.accelerator, processes.place.dtype
    with ranks.together(FtuneError):
        actor = make_actor(recipe, asked, dtype, accelerator.device, say)
        rewards, gold = open_rewards(recipe, asked, actor, dtype, accelerator.device, say)  # adapters, before wrappers
        ptx = text_beside(recipe, asked, accelerator)
    wrapped = processes.spread(actor)
    learner = Learner(
        actor=wrapped,
        inner=actor,
        optimizer=accelerator.prepare_optimizer(make_optimizer_of(recipe, actor)),
        accelerator=accelerator,
        settings=recipe.ppo,
        reduce=ranks.sum,
        max_grad_norm=recipe.optim.max_grad_norm,
        target_kl=recipe.guard.target_kl,
        ptx=ptx,
    )
    rounds = Rounds(
        actor=actor,  # not the wrapped one: ranks may have unequal shares to judge, and must not wait for each other
        engine=open_engine(recipe, asked, actor, dtype, say, split=processes.split),
        tokenizer=asked.text.tokenizer,
        rewards=rewards,
        gold=gold,
        sampling=recipe.rollout.sampling(),
        micro_batch_size=4 * recipe.ppo.micro_batch_size,
        has_reference=True,
        device=accelerator.device,
    )
    return PpoLoop(
        ranks=ranks,
        learner=learner,
        rounds=rounds,
        prompts=asked.train.prompts,
        held_out=asked.held_out.prompts,
        plan=plan_of(recipe, ranks.count, dtype),
        kl=recipe.kl,
        score=recipe.score,
        guard=recipe.guard,
        folder=folder,
        events=events,
        say=say,
        facts={**asked.fingerprints, "functions": recipe.functions},
    )


def plan_of(recipe: "PpoRecipe", processes: int, dtype: str) -> "Plan":
    """How long, how much of it, and how often what."""
    from ftune.ppo.plan import Plan

    def number(every: int | str) -> int | None:
        return None if isinstance(every, str) else every  # never

    return Plan(
        iterations=recipe.schedule.iterations,
        batch_size=recipe.rollout.batch_size // processes,
        completions_per_prompt=recipe.rollout.completions_per_prompt,
        warmup_iterations=recipe.schedule.warmup_iterations,
        schedule=recipe.schedule.type,
        value_warmup_iterations=recipe.value.warmup_iterations,
        eval_every=number(recipe.eval.every),
        eval_completions=recipe.eval.completions_per_prompt,
        checkpoint_every=number(recipe.checkpoint.every),
        checkpoints_kept=recipe.checkpoint.keep,
        log_every=recipe.log.every,
        samples_every=number(recipe.log.samples_every),
        samples=recipe.log.samples,
        seed=recipe.seed,
        half_precision=dtype != "fp32",
    )
