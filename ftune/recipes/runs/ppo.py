"""What `ftune ppo` does, in order: prompts, policy, rewards, the loop, the result. Each is made by the layers below."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.backends.ranks import Ranks
from ftune.core.errors import CheckpointError, FtuneError, LaunchError, StoppedError
from ftune.core.paths import shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.core.signals import StopSignal
from ftune.recipes.base import RunOptions
from ftune.recipes.runs.opening import open_run, reported
from ftune.recipes.runs.plan_rows import rows_of_prompts
from ftune.recipes.runs.plan_run import predict
from ftune.recipes.runs.ppo_asked import Asked, ask
from ftune.recipes.runs.ppo_assembly import assemble
from ftune.recipes.runs.ppo_processes import open_processes
from ftune.recipes.runs.ppo_report import report
from ftune.recipes.runs.prompts import tell_prompts
from ftune.recipes.runs.training import resume_command
from ftune.report.environment import environment
from ftune.report.events import EventLog
from ftune.report.rank_log import RankLog
from ftune.report.run_folder import RunFolder
from ftune.report.trackers.tracking import tracking

if TYPE_CHECKING:
    from ftune.ppo.loop import PpoLoop
    from ftune.ppo.plan import Outcome
    from ftune.recipes.ppo import PpoRecipe


def run_ppo(recipe: "PpoRecipe", options: RunOptions) -> None:
    """Train as the recipe says, on all processes of the run. Raises StoppedError when a signal ended it early."""
    say = Say()
    path = Path(recipe.output_dir)
    with Ranks.meet() as ranks:
        folder = open_run(recipe, path, options, say, "iteration", ranks)
        if folder is None:
            return
        with (
            tracking(recipe.log.trackers, folder, recipe.resolved(), say) as trackers,
            reported(folder, say),
            folder.recording() as events,
            closing(RankLog(path, ranks.rank, say)),
        ):
            trackers.follow(events)
            quiet_bars()
            ranks.before_the_end(folder.fail)
            asked = ranks.first_then_all(partial(ask, recipe, say))
            tell_prompts(asked.train, asked.held_out, say)
            _record(recipe, folder, events, asked, options, say)
            outcome = _train(recipe, folder, events, asked, ranks, say)
            if outcome.stopped_by:
                raise StoppedError(
                    f"stopped by {outcome.stopped_by} at iteration {outcome.iteration} of {outcome.iterations}; "
                    f"everything is saved. Go on with:\n  {resume_command(options.command)}"
                )
            if outcome.ended_by:
                say.warning(f"ended at iteration {outcome.iteration}: {outcome.ended_by}")
            if outcome.kept_iteration is not None:
                _tell_kept(outcome.kept_iteration, asked, recipe.guard.max_kl, say)
            events.write("kept", step=outcome.iteration if outcome.kept_iteration is None else outcome.kept_iteration)
            if ranks.first:
                report(recipe, folder, asked, options)
    result = path / ("adapter" if recipe.shared else "model")
    say.result(
        f"result: {shown(result)}\nreport: {shown(path / 'report.html')}\ncurves: {shown(path / 'curves.png')}\n"
        f"samples: {shown(path / 'samples.jsonl')}\nmodel card: {shown(path / 'README.md')}"
    )


def _tell_kept(iteration: int, asked: Asked, max_kl: float | None, say: Say) -> None:
    """Which policy is the result, where that is not the last one."""
    if not asked.held_out.prompts:
        say.line(f"the policy of iteration {iteration} is kept: the last one saved near the reference")
    elif iteration:
        say.line(f"the policy of iteration {iteration} is kept: it has the best held-out score")
    else:
        within = "" if max_kl is None else f" within guard.max_kl ({max_kl:g})"
        say.warning(
            f"no policy{within} that was tried on the held-out prompts was better than the one it started from, which "
            "is kept; eval.every says how often one is tried"
        )


def _record(
    recipe: "PpoRecipe", folder: RunFolder, events: EventLog, asked: Asked, options: RunOptions, say: Say
) -> None:
    """Write down what this run is made of, before any of it is used."""
    import torch  # noqa: F401 - with it, the environment names the GPUs

    for name, fingerprint in asked.fingerprints.items():
        if folder.found.facts.get(name, fingerprint) != fingerprint:
            raise CheckpointError(
                f"{shown(folder.path)}: the {'held-out ' if name == 'held_out' else ''}prompts are not those of the "
                "checkpoint; bring them back, or start a new run with output_dir=..."
            )
    functions = recipe.functions
    before = folder.found.facts.get("functions", functions)
    for name in (name for name, file in functions.items() if before.get(name, file) != file):
        say.warning(
            f"rewards: the file of '{name}' has changed since the checkpoint; scores may mean something else now"
        )
    folder.write_json("environment.json", environment())
    folder.write_json("data.json", asked.described())
    events.write("start", command=options.command, recipe=recipe.type, model=recipe.model.path, functions=functions)
    events.write("data", **asked.described())


def _train(recipe: "PpoRecipe", folder: RunFolder, events: EventLog, asked: Asked, ranks: Ranks, say: Say) -> "Outcome":
    """Everything that needs the model."""
    import torch

    from ftune.ppo.state import State, load_checkpoint

    processes = open_processes(recipe, ranks, say)
    prediction = predict(recipe, processes.place, partial(rows_of_prompts, asked))
    prediction.record(events, say)
    loop = assemble(recipe, folder.path, events, asked, ranks, say, processes)
    actor = loop.learner.inner
    state = State(coefficient=recipe.kl.coefficient)
    if folder.found.path is not None:
        state = load_checkpoint(folder.found.path, actor, loop.learner.optimizer)
    with ranks.together(FtuneError):
        _tell_loaded(loop, state.iteration, folder.path, events, say)
    stop = StopSignal()
    try:
        with stop.listening():
            outcome = loop.train(state, stop)
    except torch.OutOfMemoryError as error:
        advice = prediction.out_of_memory(
            "halve ppo.micro_batch_size (it does not change the result), set ppo.activation_checkpointing: true, lower "
            "rollout.batch_size, or set model.quantization: nf4, in this order"
        )
        raise LaunchError(
            f"out of GPU memory at iteration {state.iteration + 1} ({str(error).partition('. ')[0]}); {advice}"
        ) from error
    prediction.hold_against(folder, say)
    if not outcome.stopped_by:
        _save(recipe, folder.path, asked, loop)
    return outcome


def _tell_loaded(loop: "PpoLoop", iteration: int, path: Path, events: EventLog, say: Say) -> None:
    """What is in memory; and samples of iterations that will be made again are forgotten."""
    import torch

    from ftune.backends.engines.sharding import is_split
    from ftune.ppo.samples import forget_samples

    if loop.ranks.first:
        forget_samples(path, iteration)
    device = loop.learner.accelerator.device
    memory = torch.cuda.memory_allocated() / 2**30 if device.type == "cuda" else None
    sizes = {name: sum(p.numel() for p in group) for name, group in loop.learner.inner.parameter_groups().items()}
    dtype = "bf16" if loop.plan.half_precision else "fp32"
    events.write(
        "model", dtype=dtype, device=str(device), trainable=sizes, loaded_gib=memory,
        processes=loop.ranks.count, split=is_split(loop.learner.inner),
    )  # fmt: skip
    if memory is not None:
        say.line(f"memory after loading: {memory:.2f} GiB")


def _save(recipe: "PpoRecipe", path: Path, asked: Asked, loop: "PpoLoop") -> None:
    """Write the result, which all ranks gather and the first one writes."""
    from ftune.core.checkpoints import commit_folder, stage_folder, writing
    from ftune.models.save import save_result
    from ftune.ppo.saving import ready_to_save, save_policy, save_value

    actor, ranks = loop.learner.inner, loop.ranks
    template = asked.text.template.text if asked.text.template else None
    with ready_to_save(actor, keep=ranks.first), ranks.together(FtuneError):
        if not ranks.first:
            return
        for config in getattr(actor.model, "peft_config", {}).values():
            config.revision = recipe.model.revision
        target = path / ("adapter" if recipe.shared else "model")
        save_result(partial(save_policy, actor), asked.text.tokenizer, template, target)
        staging = stage_folder(path / "value")
        with writing(staging):
            save_value(actor, staging)
        commit_folder(staging, path / "value")
