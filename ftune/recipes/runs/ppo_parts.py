"""The parts of a run of PPO, each made as the recipe says: policy, rewards, rollout engine, and text beside them."""

from typing import TYPE_CHECKING

from ftune.core.say import Say
from ftune.models.dtype import torch_name
from ftune.recipes.runs.ppo_asked import Asked

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from ftune.ppo.actor_critic import ActorCritic
    from ftune.ppo.rollout.base import Engine
    from ftune.ppo.update import Ptx
    from ftune.recipes.ppo import PpoRecipe
    from ftune.rewards.suite import RewardSuite


def make_actor(recipe: "PpoRecipe", asked: Asked, dtype: str, device: "torch.device", say: Say) -> "ActorCritic":
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


def make_optimizer_of(recipe: "PpoRecipe", actor: "ActorCritic") -> "torch.optim.Optimizer":
    """The optimiser, over the parameters as they are now: after they were split over ranks."""
    from ftune.ppo.optimizer import make_optimizer

    rate = recipe.learning_rate
    return make_optimizer(
        recipe.optim.optimizer,
        actor.parameter_groups(),
        {"policy": rate, "value": recipe.value.learning_rate or 5 * rate},
        betas=(recipe.optim.betas[0], recipe.optim.betas[1]),
        eps=recipe.optim.eps,
        weight_decay=recipe.optim.weight_decay,
    )


def open_rewards(
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


def open_engine(
    recipe: "PpoRecipe", asked: Asked, actor: "ActorCritic", dtype: str, say: Say, *, split: bool
) -> "Engine":
    """The rollout engine, opened on the policy; where that is split over ranks, the only one that can serve it."""
    import torch

    from ftune.data.stops import stop_ids
    from ftune.ppo.rollout.base import Policy, RolloutEngine
    from ftune.ppo.rollout.generate import Generate

    if recipe.rollout.top_k or recipe.rollout.top_p < 1:
        say.warning("rollout: with top_k or top_p the ratio is not that of the policy that drew the tokens")
    policy = Policy(
        model=actor.model,
        pad_id=int(asked.text.tokenizer.pad_token_id),
        stop_ids=stop_ids(asked.text.tokenizer, asked.text.template),
        autocast=torch.bfloat16 if dtype == "bf16" else None,
    )
    rollout: RolloutEngine = recipe.rollout
    if split and rollout.type != "generate":  # type: ignore[attr-defined]
        rollout = Generate(**{key: getattr(rollout, key) for key in RolloutEngine.model_fields})
    engine = rollout.open(policy)
    say.line(f"rollouts: {engine.name}")
    return engine


def text_beside(recipe: "PpoRecipe", asked: Asked, accelerator: "Accelerator") -> "Ptx | None":
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
