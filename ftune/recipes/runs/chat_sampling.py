"""How the next token of a reply is drawn."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ftune.core.errors import RecipeError
from ftune.core.suggest import did_you_mean

if TYPE_CHECKING:
    from transformers import GenerationConfig

SETTINGS: dict[str, tuple[Callable[[str], float], float, float]] = {
    "temperature": (float, 0, 100),
    "top_p": (float, 0, 1),
    "top_k": (int, 0, 1_000_000),
    "max_new_tokens": (int, 1, 1_000_000),
}
"""How each setting is read, its least and its largest value."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a person can set. The defaults are for models whose generation settings do not ask for sampling."""

    temperature: float = 0.7
    """What logits are divided by; 0 takes the likeliest token (greedy)."""
    top_p: float = 0.9
    """Only the likeliest tokens are drawn from that have this probability together; 1 for all."""
    top_k: int = 0
    """Only so many of the likeliest tokens are drawn from; 0 for all."""
    max_new_tokens: int = 512
    """Longest reply in tokens."""

    def __str__(self) -> str:
        greedy = "" if self.temperature else " (greedy)"
        drawn = f"temperature={self.temperature:g}{greedy} top_p={self.top_p:g} top_k={self.top_k}"
        return f"{drawn} max_new_tokens={self.max_new_tokens}"

    def changed(self, words: Iterable[str]) -> "Sampling":
        """With `name=value` words. Raises RecipeError for a name that is not known or a value outside of its limits."""
        found: dict[str, Any] = {}
        for word in words:
            name, equals, text = word.partition("=")
            if name in SETTINGS and not equals:
                raise RecipeError(f"{name}: has no value; write {name}=VALUE")
            if name not in SETTINGS:
                raise RecipeError(f"'{word}' is no setting; write NAME=VALUE{did_you_mean(name, SETTINGS)}")
            kind, low, high = SETTINGS[name]
            try:
                value = kind(text)
            except ValueError:
                value = math.nan
            if not low <= value <= high:
                whole = " whole" if kind is int else ""
                raise RecipeError(f"{name}: should be a{whole} number from {low:g} to {high:,.0f}, got '{text}'")
            found[name] = value
        return replace(self, **found)

    def arguments(self) -> dict[str, Any]:
        """For transformers' `generate`."""
        if not self.temperature:
            return {"do_sample": False}
        top_p = self.top_p or 1e-9  # 0 leaves the likeliest token, which transformers writes as "more than 0"
        return {"do_sample": True, "temperature": self.temperature, "top_p": top_p, "top_k": self.top_k}


def sampling_of(model: "GenerationConfig") -> Sampling:
    """What the model's own generation settings ask for."""
    usual = Sampling(max_new_tokens=model.max_new_tokens or Sampling().max_new_tokens)
    if not model.do_sample:
        return usual
    own = {"temperature": model.temperature, "top_p": model.top_p, "top_k": model.top_k}
    neutral = replace(usual, temperature=1.0, top_p=1.0)
    return replace(neutral, **{name: value for name, value in own.items() if value is not None})
