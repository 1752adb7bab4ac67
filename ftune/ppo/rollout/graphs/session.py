"""Everything with a fixed address that rows are completed with: cache, buffers and the captured step."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.utils._triton import has_triton

from ftune.ppo.rollout.base import Sampling
from ftune.ppo.rollout.graphs.attention import Spans, flash_serves
from ftune.ppo.rollout.graphs.decoder import normed, prompt_block, step_block
from ftune.ppo.rollout.graphs.drawing import draw
from ftune.ppo.rollout.graphs.layout import Layout
from ftune.ppo.rollout.graphs.weights import Product, Weights, apply

PROMPT_TOKENS = 16_384
"""Prompt tokens that go through the model at once."""

POLL = 16
"""Steps between two looks whether all rows have stopped."""

WARM_UP = 2
"""Steps before the capture: they compile, choose kernels and allocate workspaces."""


class Room(NamedTuple):
    """What a session has room for."""

    rows: int
    places: int
    """Tokens of prompt and completion together."""
    new_tokens: int


class Session:
    """Completes up to `room.rows` prompts at a time."""

    def __init__(
        self,
        layout: Layout,
        weights: Weights,
        room: Room,
        sampling: Sampling,
        stop_ids: Sequence[int],
        *,
        compiled: bool = True,
    ) -> None:
        """`compiled` is without effect where nothing can be compiled, and too slow a start for a few steps."""
        self.room, self.sampling, self._compiled = room, sampling, compiled
        self._layout, self._weights = layout, weights
        shape, device = layout.shape, layout.device
        cached = (room.rows * room.places, shape.kv_heads, shape.head_dim)
        self._keys, self._values = (
            [torch.zeros(cached, dtype=layout.dtype, device=device) for _ in layout.layers] for _ in range(2)
        )
        self._cos, self._sin = _rotary_tables(layout, room.places)
        self._first_places_B = torch.arange(room.rows, device=device) * room.places
        self.tokens_B = torch.zeros(room.rows, dtype=torch.int64, device=device)
        self._lengths_B = torch.zeros_like(self.tokens_B)
        self._alive_B = torch.zeros(room.rows, dtype=torch.bool, device=device)
        self._made = torch.zeros(1, dtype=torch.int64, device=device)
        self._tokens_BC = torch.zeros(room.rows, room.new_tokens, dtype=torch.int64, device=device)
        self._logprobs_BC = torch.zeros(room.rows, room.new_tokens, device=device)
        self._noise_BV = torch.ones(room.rows, weights.head.widths[0], device=device)
        self._temperature = torch.tensor(sampling.temperature, device=device)
        self._stop_ids = torch.tensor(sorted(set(stop_ids)), dtype=torch.int64, device=device)
        each = torch.arange(room.rows + 1, device=device, dtype=torch.int32)
        flash = flash_serves(device, layout.dtype, shape.head_dim)
        self._spans = Spans(each, each * room.places) if flash else None
        self._replay: Callable[[], Any] | None = None

    @torch.no_grad()
    def complete(
        self, prompts: Sequence[list[int]], generator: torch.Generator
    ) -> tuple[list[list[int]], list[list[float]]]:
        """New tokens of each prompt and their log-probabilities; what follows a stop token is to be cut off."""
        if self._replay is None and self._layout.device.type == "cuda":
            self._replay = self._capture()
        step = self._replay or self._step
        self._made.zero_()
        self._alive_B.copy_(torch.arange(self.room.rows) < len(prompts))
        last_BH = self.read_prompts(prompts)
        self._noise_BV.exponential_(generator=generator)
        self._choose(last_BH)
        columns, look = self.sampling.max_new_tokens, None
        for made in range(1, columns):
            if made % POLL == 0:
                if look and look.all_stopped():
                    columns = made
                    break
                look = _Look(self._alive_B)
            self._noise_BV.exponential_(generator=generator)
            step()
        tokens, logprobs = (made_BC[: len(prompts), :columns] for made_BC in (self._tokens_BC, self._logprobs_BC))
        return tokens.tolist(), logprobs.tolist()

    @torch.no_grad()
    def read_prompts(self, prompts: Sequence[list[int]]) -> torch.Tensor:
        """Write the prompts into the cache; the last hidden state of each row, (B, H)."""
        device, hidden = self._layout.device, self._layout.embedding.embedding_dim
        self._lengths_B.zero_()
        last_BH = torch.zeros(self.room.rows, hidden, dtype=self._layout.embedding.weight.dtype, device=device)
        begin = 0
        while begin < len(prompts):
            rows = max(1, PROMPT_TOKENS // max(map(len, prompts[begin:])))
            chosen = prompts[begin : begin + rows]
            lengths = torch.tensor([len(prompt) for prompt in chosen], device=device)
            self._lengths_B[begin : begin + len(chosen)] = lengths
            x_BPH = self._read(chosen, begin)
            last_BH[begin : begin + len(chosen)] = x_BPH[torch.arange(len(chosen), device=device), lengths - 1]
            begin += len(chosen)
        return last_BH

    @torch.no_grad()
    def read_tokens(self) -> torch.Tensor:
        """Write `tokens_B` into the cache behind what is there; their hidden states, (B, H)."""
        weights, shape = self._weights, self._layout.shape
        x_BH = torch.nn.functional.embedding(self.tokens_B, self._layout.embedding.weight)
        cos, sin = self._cos[self._lengths_B][:, None], self._sin[self._lengths_B][:, None]
        places_B, used_B = self._first_places_B + self._lengths_B, (self._lengths_B + 1).int()
        block = self._fast(step_block)
        for layer, keys, values in zip(weights.layers, self._keys, self._values, strict=True):
            x_BH = block(x_BH, layer, shape, cos, sin, places_B, used_B, keys, values, self._spans)
        self._lengths_B.add_(1)
        return x_BH

    @torch.no_grad()
    def logits(self, x_BH: torch.Tensor) -> torch.Tensor:
        """Logits of the token behind each row, (B, V) in fp32, at temperature 1."""
        return apply(self._weights.head, normed(x_BH, self._weights.norm, self._layout.shape.eps))[0].float()

    def _read(self, prompts: Sequence[list[int]], begin: int) -> torch.Tensor:
        """Hidden states (rows, P, H) of prompts whose rows begin at `begin`, through all layers."""
        width, shape = max(map(len, prompts)), self._layout.shape
        ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=self._layout.device)
        x_BPH = torch.nn.functional.embedding(ids, self._layout.embedding.weight)
        cos, sin = self._cos[:width, None], self._sin[:width, None]
        size = (self.room.rows, self.room.places, shape.kv_heads, shape.head_dim)
        for layer, keys, values in zip(self._weights.layers, self._keys, self._values, strict=True):
            mine = [cached.view(size)[begin : begin + len(prompts), :width] for cached in (keys, values)]
            x_BPH = prompt_block(x_BPH, layer, shape, cos, sin, *mine)
        return x_BPH

    def _step(self) -> None:
        self._choose(self.read_tokens())

    def _choose(self, x_BH: torch.Tensor) -> None:
        """Draw the next token of each row and note it."""
        choose = self._fast(_draw_token)
        sampling = self.sampling
        tokens_B, logprobs_B = choose(
            x_BH,
            self._weights.norm,
            self._weights.head,
            self._layout.shape.eps,
            self._temperature,
            self._noise_BV,
            sampling.top_k,
            sampling.top_p,
        )
        self.tokens_B.copy_(tokens_B)
        self._tokens_BC.index_copy_(1, self._made, tokens_B[:, None])
        self._logprobs_BC.index_copy_(1, self._made, logprobs_B[:, None])
        self._alive_B.logical_and_((tokens_B[:, None] != self._stop_ids).all(1))
        self._made.add_(1)

    def _fast(self, function: Any) -> Any:
        """The function compiled for a GPU; as it is where nothing can be compiled."""
        able = self._compiled and self._layout.device.type == "cuda" and has_triton()
        return compiled(function) if able else function

    def _capture(self) -> Callable[[], None]:
        """The step as one CUDA graph."""
        side, graph = _side_stream(self._layout.device), torch.cuda.CUDAGraph()
        torch.cuda.synchronize(side.device)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._lengths_B.zero_()
                self._made.zero_()
                self._step()
            side.synchronize()
            # `torch.cuda.graph` would empty the allocator's cache first, for which training would pay
            graph.capture_begin(capture_error_mode="thread_local")  # other threads may go on
            try:
                self._step()
            finally:
                graph.capture_end()
        torch.cuda.synchronize(side.device)
        return graph.replay


class _Look:
    """Whether any row was still going on when this was made; the device does not wait for the host, nor it for this."""

    def __init__(self, alive_B: torch.Tensor) -> None:
        self._alive = torch.empty((), dtype=torch.bool, pin_memory=alive_B.is_cuda)
        self._alive.copy_(alive_B.any(), non_blocking=True)
        self._arrived = torch.cuda.Event() if alive_B.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrived:
            self._arrived.record()

    def all_stopped(self) -> bool:
        """Waits until it is known; the device has the next steps to work on meanwhile."""
        if self._arrived:
            self._arrived.synchronize()
        return not bool(self._alive)


def _draw_token(
    x_BH: torch.Tensor,
    norm: torch.Tensor,
    head: Product,
    eps: float,
    temperature: torch.Tensor,
    noise_BV: torch.Tensor,
    top_k: int,
    top_p: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    logits_BV = apply(head, normed(x_BH, norm, eps))[0].float()
    return draw(logits_BV / temperature, noise_BV, top_k, top_p)


def _rotary_tables(layout: Layout, places: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every place, (S, D), as the model's own module makes them."""
    like = torch.empty(0, dtype=layout.embedding.weight.dtype, device=layout.device)
    cos, sin = layout.rotary(like, torch.arange(places, device=layout.device)[None])
    return cos[0], sin[0]


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream that steps are captured on: memory that a stream has freed is kept for it alone."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@cache
def compiled(function: Any) -> Any:
    """The function for tensors of fixed shapes; compiled once in a process for each set of shapes."""
    return torch.compile(function, dynamic=False)
