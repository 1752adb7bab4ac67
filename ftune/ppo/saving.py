"""Results: the policy in the layout of peft or transformers, which knows nothing of PPO, and the critic beside it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ftune.ppo.actor_critic import POLICY, VALUE, ActorCritic
from ftune.ppo.sharded import gathered, trained, whole

VALUE_HEAD = "value_head.safetensors"


def save_policy(
    actor_critic: ActorCritic, folder: Path, export: Callable[[Any, Path], None] | None = None, *, write: bool = True
) -> None:
    """The policy's adapter, or the whole model, as if it were alone in memory.

    `export` is that of the PEFT method where it made the policy; without it the adapter is written as it is. Where
    parameters are sharded every rank has to call this, and only those with `write` write.
    """
    with gathered(actor_critic.model), _alone(actor_critic.model):
        if write and export is not None:
            export(actor_critic.model, folder)
        elif write:
            actor_critic.model.save_pretrained(str(folder))


def save_value(actor_critic: ActorCritic, folder: Path, *, write: bool = True) -> None:
    """The head as `value_head.safetensors` (`weight`, shape (1, D), and `bias`), its adapter or backbone in `value`."""
    prefix = "value_head."
    named = trained(actor_critic)
    head = {name.removeprefix(prefix): whole(named[name]).cpu() for name in named if name.startswith(prefix)}
    with gathered(actor_critic.model if actor_critic.value_copy is None else actor_critic.value_copy):
        if not write:
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_file(head, folder / VALUE_HEAD, metadata={"format": "pt"})
        if actor_critic.value == "adapter":
            actor_critic.model.save_pretrained(str(folder), selected_adapters=[VALUE])
        elif actor_critic.value_copy is not None:
            actor_critic.value_copy.save_pretrained(str(folder / "value"))


@contextmanager
def _alone(model: Any) -> Iterator[None]:
    """Let `save_pretrained` of a PeftModel, which writes all adapters, write the policy's."""
    if not hasattr(model, "peft_config"):
        yield
        return
    try:
        model.save_pretrained = partial(model.save_pretrained, selected_adapters=[POLICY])
        yield
    finally:
        del model.save_pretrained
