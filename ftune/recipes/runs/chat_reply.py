"""One reply of a model, passed on while it is written."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ftune.core.errors import LaunchError, ModelError
from ftune.recipes.runs.chat_sampling import Sampling

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

CUT_CHARACTER = "\ufffd"
"""What a tokenizer makes of bytes that are no whole character yet."""

Told = Callable[[str], None]
"""Gets the text of a reply piece by piece."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said."""

    text: str
    tokens: int
    """That were written, the stop token too."""
    seconds: float
    stop: Literal["stop", "length", "interrupted"]
    """A stop token, the longest reply that was allowed, or Ctrl-C."""

    @property
    def measured(self) -> str:
        """Size and speed for people."""
        ended = {"stop": "", "length": ", cut there", "interrupted": ", stopped"}[self.stop]
        tokens = f"{self.tokens} token{'' if self.tokens == 1 else 's'}"
        return f"{tokens}{ended}, {self.tokens / max(self.seconds, 1e-9):.1f} per second"


@dataclass(slots=True)
class _Written:
    """Takes tokens from transformers' `generate` as they come (its `streamer`)."""

    tokenizer: "PreTrainedTokenizerBase"
    stops: Collection[int]
    told: Told
    ids: list[int] = field(default_factory=list)
    _begun: bool = False
    _shown: int = 0

    def put(self, tokens: "Tensor") -> None:
        """The prompt at first, then each token."""
        if not self._begun:
            self._begun = True
            return
        self.ids += tokens.reshape(-1).tolist()
        text = self.text
        if not text.endswith(CUT_CHARACTER):
            self._tell(text)

    def end(self) -> None:
        """All of it, bytes without a character too."""
        self._tell(self.text)

    @property
    def stopped(self) -> bool:
        return bool(self.ids) and self.ids[-1] in self.stops

    @property
    def text(self) -> str:
        ids = self.ids[:-1] if self.stopped else self.ids
        # as a whole each time: what a token becomes depends on those before it
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _tell(self, text: str) -> None:
        if len(text) > self._shown:
            new, self._shown = text[self._shown :], len(text)
            self.told(new)


def write_reply(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Sequence[int],
    *,
    stops: Sequence[int],
    sampling: Sampling,
    seed: int,
    told: Told,
) -> Reply:
    """The reply to `prompt` (token ids); the same for the same `seed`. Ctrl-C ends it, and what is there is the reply.

    Raises ModelError for a model that computes no numbers, LaunchError where the memory is not enough.
    """
    import torch

    written = _Written(tokenizer, stops, told)
    ids = torch.tensor([list(prompt)], device=model.device)
    torch.manual_seed(seed)
    started, interrupted = time.monotonic(), False
    try:
        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=list(stops),
                pad_token_id=tokenizer.pad_token_id,
                num_beams=1,
                logits_processor=[_finite],
                streamer=written,
                **sampling.arguments(),
            )
    except KeyboardInterrupt:
        interrupted = True
        written.end()
    except torch.OutOfMemoryError:
        raise LaunchError(
            f"no memory is left for a reply to {len(prompt):,} tokens; begin anew with less text"
        ) from None
    seconds = time.monotonic() - started
    stop: Literal["stop", "length"] = "stop" if written.stopped else "length"
    return Reply(written.text, len(written.ids), seconds, "interrupted" if interrupted and stop == "length" else stop)


def _finite(ids: "Tensor", scores: "Tensor") -> "Tensor":
    """Raises ModelError where the next token would be drawn from numbers that are none."""
    if not bool((scores < math.inf).all()):  # NaN neither; -inf is what sampling leaves out
        raise ModelError("the model's logits are not numbers; its weights or its adapter are broken, or fp16 overflows")
    return scores
