"""Policy, reference, value and reward adapters as one module: every pass goes through its `forward`.

So whatever wraps the module (DDP, FSDP2, ZeRO) sees all of them. Sequences are padded on the right; see
`ftune.ppo.sequences`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ftune.backends.engines.sharding import like, trained, whole
from ftune.core.errors import CheckpointError, ModelError
from ftune.models.dropout import without_dropout
from ftune.models.output_head import is_virtual
from ftune.ppo.activations import switch_checkpointing
from ftune.ppo.adapters import adapter_scope, renamed
from ftune.ppo.head import Spots, head_differs, hidden_states, output_head_of, read
from ftune.ppo.value_head import ValueHead

POLICY, REFERENCE, VALUE = "default", "reference", "value"
"""Names of adapters."""

Mode: TypeAlias = Literal["policy", "reference", "reward", "text"]
ReferenceKind: TypeAlias = Literal["base", "adapter", "copy", "none"]
ValueKind: TypeAlias = Literal["trunk", "adapter", "copy"]


class PolicyOutput(NamedTuple):
    """Of the responses, fp32; 0 behind their ends. T is the longest response of the batch that was given."""

    logprobs_BT: Tensor
    entropy_BT: Tensor
    values_BT: Tensor
    """Of the state before each token."""
    last_values_B: Tensor
    """Of the state behind the last token."""


class TextOutput(NamedTuple):
    """Of text to be imitated."""

    nll: Tensor
    """Sum of the negative log-likelihoods of all labels, fp32."""
    labels: Tensor
    """How many there are."""


class ActorCritic(nn.Module):
    """One base, or copies of it, in its four roles. Made by `ftune.ppo.build.build`."""

    def __init__(
        self,
        model: Any,
        *,
        reference: ReferenceKind,
        value: ValueKind,
        reference_copy: nn.Module | None = None,
        value_copy: Any = None,
        temperature: float = 1.0,
        detach_value: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.reference, self.value = reference, value
        self.reference_copy, self.value_copy = reference_copy, value_copy
        self.temperature, self.detach_value = temperature, detach_value
        self.head = output_head_of(model)
        self.reference_head = None if reference_copy is None or self.head is None else output_head_of(reference_copy)
        self.value_head = ValueHead(_hidden_size(model)).to(next(model.parameters()).device)
        self.reward_heads = nn.ParameterDict()
        self.checkpointed = False
        self.settle()

    def forward(self, mode: Mode, *tensors: Tensor, **named: Any) -> PolicyOutput | TextOutput | Tensor:
        """One pass, or two where the value has a backbone of its own. Gradients are taken where autograd is enabled.

        - `policy` (ids_BS, starts_B, ends_B): PolicyOutput.
        - `reference` (the same): log-probabilities, shape (B, T), without gradients; 0 behind the ends.
        - `reward` (ids_BS, ends_B, adapter): logits of that reward adapter at each row's last token, (B, classes).
        - `text` (ids_BS, labels, -100 where there is none): TextOutput, at temperature 1.
        """
        passes: dict[Mode, Callable[..., PolicyOutput | TextOutput | Tensor]] = {
            "policy": self._policy,
            "reference": self._reference,
            "reward": self._reward,
            "text": self._text,
        }
        return passes[mode](*tensors, **named)

    def trainable(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What trains."""
        return list(self.trainable().values())

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What trains: `policy`, and `value` (the head and the value's own adapter or copy)."""
        named, own = self.trainable(), self._own_of_value()
        return {
            "policy": [value for name, value in named.items() if name not in own],
            "value": [value for name, value in named.items() if name in own],
        }

    def trainable_state(self) -> dict[str, Tensor]:
        """A copy of everything that trains, whole and on the CPU, from which training goes on exactly.

        Where parameters are sharded, every rank has to call it.
        """
        return {name: whole(value).cpu().clone() for name, value in trained(self).items()}

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Bring back what `trainable_state` gave. Raises CheckpointError for other parameters."""
        named = trained(self)
        wrong = sorted(named.keys() ^ state.keys()) or [
            name for name, value in named.items() if value.shape != state[name].shape
        ]
        if wrong:
            raise CheckpointError(f"trained parameters do not fit the model at {len(wrong)} names, first '{wrong[0]}'")
        with torch.no_grad():
            for name, value in named.items():
                value.copy_(like(state[name], value))

    def checkpoint_activations(self, on: bool) -> None:
        """Compute activations again in the backward pass, or keep them.

        Layers do so only while they train, so a model in evaluation mode generates with its cache as ever.
        """
        self.checkpointed = on
        for module in (self.model, self.value_copy):
            if module is not None:
                switch_checkpointing(module, on)

    def settle(self) -> None:
        """Without dropout and in evaluation mode, activations checkpointed as they were: after adapters were added."""
        without_dropout(self)
        self.eval()
        if self.checkpointed:
            self.checkpoint_activations(True)

    def _policy(self, ids_BS: Tensor, starts_B: Tensor, ends_B: Tensor) -> PolicyOutput:
        mask_BT, spots = _responses(starts_B, ends_B)
        with self._scope(POLICY):
            logprobs_N, entropy_N, hidden_BSD = read(self.model, self.head, ids_BS, spots, self.temperature)
        if self.value == "adapter":
            with self._scope(VALUE):
                hidden_BSD = hidden_states(self.model, ids_BS)
        elif self.value_copy is not None:
            hidden_BSD = self.value_copy(input_ids=ids_BS, use_cache=False).last_hidden_state
        elif self.detach_value:
            hidden_BSD = hidden_BSD.detach()
        values_N = self.value_head(hidden_BSD[spots.rows_N, spots.places_N - 1])
        rows_B = torch.arange(len(ids_BS), device=ids_BS.device)
        return PolicyOutput(
            _padded(logprobs_N, mask_BT),
            _padded(entropy_N, mask_BT),
            _padded(values_N, mask_BT),
            self.value_head(hidden_BSD[rows_B, ends_B - 1]),
        )

    @torch.no_grad()
    def _reference(self, ids_BS: Tensor, starts_B: Tensor, ends_B: Tensor) -> Tensor:
        mask_BT, spots = _responses(starts_B, ends_B)
        if self.reference == "none":
            raise ModelError("the actor-critic was built without a reference")
        if self.reference_copy is not None:
            out = read(self.reference_copy, self.reference_head, ids_BS, spots, self.temperature, with_entropy=False)
        else:
            with self._scope(None if self.reference == "base" else REFERENCE):
                out = read(self.model, self.head, ids_BS, spots, self.temperature, with_entropy=False)
        return _padded(out.logprobs_N, mask_BT)

    @torch.no_grad()
    def _reward(self, ids_BS: Tensor, ends_B: Tensor, adapter: str) -> Tensor:
        with self._scope(adapter):
            hidden_BSD = hidden_states(self.model, ids_BS)
        last_BD = hidden_BSD[torch.arange(len(ids_BS), device=ids_BS.device), ends_B - 1]
        with torch.autocast(ids_BS.device.type, enabled=False):
            return nn.functional.linear(last_BD.float(), self.reward_heads[adapter].float())

    def _text(self, ids_BS: Tensor, labels: Tensor) -> TextOutput:
        labelled_BS = labels != -100
        labelled_BS[:, 0] = False  # nothing stands before the first token to predict it
        spots = Spots(*labelled_BS.nonzero(as_tuple=True))
        with self._scope(POLICY):
            logprobs_N = read(self.model, self.head, ids_BS, spots, 1.0, with_entropy=False).logprobs_N
        # DDP waits for a gradient of every parameter that trains; shards of FSDP2 need none.
        rest = [value for value in self.parameter_groups()["value"] if not isinstance(value, DTensor)]
        untouched = sum((value.sum() for value in rest), logprobs_N.new_zeros(()))
        return TextOutput(untouched * 0.0 - logprobs_N.sum(), labelled_BS.sum())

    def _own_of_value(self) -> set[str]:
        """Names of parameters that the policy does not use."""
        names = [name for name, _ in self.named_parameters()]
        twins = {renamed(name, VALUE) for name in names if renamed(name, VALUE) != name}
        return twins | {name for name in names if name.startswith(("value_head.", "value_copy."))}

    def _scope(self, adapter: str | None) -> AbstractContextManager[None]:
        """The adapter at work; a whole model and virtual tokens have but one state."""
        if adapter == POLICY and (is_virtual(self.model) or not hasattr(self.model, "peft_config")):
            return nullcontext()
        return adapter_scope(self.model, adapter)


def check_head(actor_critic: ActorCritic, ids_S: Tensor) -> str | None:
    """Compare log-probabilities of a row of tokens with the model's own logits, before the module is wrapped.

    Where they differ, logits of whole rows are made from now on, which costs memory; the answer says why.
    """
    if actor_critic.head is None:
        return "its output head is quantised or adapted, or there are virtual tokens"
    reason = head_differs(actor_critic.model, actor_critic.head, ids_S)
    if reason:
        actor_critic.head = actor_critic.reference_head = None
    return reason


def frozen_parameters(actor_critic: ActorCritic) -> Iterator[tuple[str, nn.Parameter]]:
    """What must never change: base, reference and reward adapters."""
    return ((name, value) for name, value in actor_critic.named_parameters() if not value.requires_grad)


def _responses(starts_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Spots]:
    """Where response tokens are real, shape (B, T), and where they stand in their rows."""
    lengths_B = ends_B - starts_B
    mask_BT = torch.arange(int(lengths_B.max()), device=ends_B.device) < lengths_B[:, None]
    rows_N, steps_N = mask_BT.nonzero(as_tuple=True)
    return mask_BT, Spots(rows_N, starts_B[rows_N] + steps_N)


def _padded(flat_N: Tensor, mask_BT: Tensor) -> Tensor:
    return flat_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, flat_N)


def _hidden_size(model: Any) -> int:
    """Width of the last hidden states."""
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    head = whole.get_output_embeddings()
    size: int = getattr(head, "in_features", None) or whole.config.get_text_config().hidden_size
    return size
