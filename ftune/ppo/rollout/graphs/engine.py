"""The graph engine at work: prompts in waves through one session, whose memory is given back between iterations."""

from collections.abc import Sequence

import torch

from ftune.core.errors import LaunchError
from ftune.ppo.rollout.base import Policy, Rollout, Sampling
from ftune.ppo.rollout.engines.completion import completion
from ftune.ppo.rollout.graphs.layout import Layout
from ftune.ppo.rollout.graphs.session import Room, Session
from ftune.ppo.rollout.graphs.weights import Mode, Weights

PLACES = 128
"""The cache's length is a multiple of this: a new length is compiled anew."""

ROWS = 8
"""The number of rows is a multiple of this, for the same reason."""


class GraphEngine:
    """Completions by our own decode pass. Steps are captured again after each `rest`, which takes a few steps' time."""

    def __init__(self, policy: Policy, layout: Layout, mode: Mode, most_rows: int) -> None:
        self.name = f"graph ({mode} weights)"
        self._mode = mode
        self._policy, self._layout, self._most_rows = policy, layout, most_rows
        self._weights: Weights | None = None
        self._session: Session | None = None
        self._stale = False
        self._places = 0

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling, seed: int) -> list[Rollout]:
        """One completion of each prompt, in their order."""
        if not prompts:
            return []
        session = self._ready(prompts, sampling)
        generator = torch.Generator(self._layout.device).manual_seed(seed)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        made: dict[int, Rollout] = {}
        for begin in range(0, len(order), session.room.rows):
            chosen = order[begin : begin + session.room.rows]
            completed = session.complete([prompts[index] for index in chosen], generator)
            for index, tokens, logprobs in zip(chosen, *completed, strict=True):
                made[index] = completion(prompts[index], tokens, logprobs, self._policy.stop_ids)
        return [made[index] for index in range(len(prompts))]

    def policy_changed(self) -> None:
        """What is copied of the weights is copied anew before the next token."""
        self._stale = True

    def rest(self) -> None:
        """Give back the cache, the captured step and all copies of weights."""
        self._session = self._weights = None

    def _ready(self, prompts: Sequence[list[int]], sampling: Sampling) -> Session:
        """A session with room for these prompts, with the weights as they are now."""
        if self._weights is None:
            self._weights = Weights(self._layout, self._mode)
        elif self._stale:
            self._weights.refresh()
        self._stale = False
        places = max(map(len, prompts)) + sampling.max_new_tokens
        self._places = max(self._places, _round_up(places, PLACES))
        session = self._session
        if session is None or session.sampling != sampling or session.room.places < self._places:
            self._session = session = None  # its memory goes first
            most = self._rows_that_fit()
            waves = -(-len(prompts) // most)
            rows = min(most, _round_up(-(-len(prompts) // waves), ROWS))
            room = Room(rows, self._places, sampling.max_new_tokens)
            self._session = session = Session(self._layout, self._weights, room, sampling, self._policy.stop_ids)
        return session

    def _rows_that_fit(self) -> int:
        """Rows that half of the free memory holds, at most those asked for."""
        free, layout = free_bytes(self._layout.device), self._layout
        if free is None:
            return self._most_rows
        cached = 2 * len(layout.layers) * layout.shape.kv_heads * layout.shape.head_dim * layout.dtype.itemsize
        drawing = 6 * 4 * layout.embedding.num_embeddings  # noise, logits, and what is made of them, in fp32
        fitting = free // 2 // (cached * self._places + drawing)
        if not fitting:
            raise LaunchError(
                f"half of the free GPU memory ({free / 2**31:.1f} GiB) has no room for the cache of one completion of "
                f"{self._places} tokens; lower rollout.max_new_tokens or set rollout.weights: shared"
            )
        return min(self._most_rows, fitting)


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be allocated on a GPU, what PyTorch holds unused included; None elsewhere."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
