"""Results: the policy in the layout of peft or transformers, which knows nothing of PPO, and the critic beside it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ftune.backends.engines.sharding import gathered
from ftune.ppo.actor_critic import POLICY, VALUE, ActorCritic

VALUE_HEAD = "value_head.safetensors"


@contextmanager
def ready_to_save(actor_critic: ActorCritic, *, keep: bool) -> Iterator[None]:
    """What trains stands whole in the model, for `save_policy` and `save_value` where parameters are split over ranks.

    Every rank has to enter; only those with `keep` can save.
    """
    parts = (actor_critic.model, actor_critic.value_head, actor_critic.value_copy)
    with ExitStack() as stack:
        for part in parts:
            if part is not None:
                stack.enter_context(gathered(part, keep=keep))
        yield


def save_policy(actor_critic: ActorCritic, folder: Path, export: Callable[[Any, Path], None] | None = None) -> None:
    """The policy's adapter, or the whole model, as if it were alone in memory.

    `export` is that of the PEFT method where it made the policy; without it the adapter is written as it is.
    """
    with _alone(actor_critic.model):
        if export is not None:
            export(actor_critic.model, folder)
        else:
            actor_critic.model.save_pretrained(str(folder))


def save_value(actor_critic: ActorCritic, folder: Path) -> None:
    """The head as `value_head.safetensors` (`weight`, shape (1, D), and `bias`), its adapter or backbone in `value`."""
    head = {name: value.cpu() for name, value in actor_critic.value_head.state_dict().items()}
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
