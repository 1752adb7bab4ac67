"""From the raw scores of reward sources to the scores that training sees."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ftune.rl.moments import RunningMoments

LEAST_STD = 1e-6
"""A smaller standard deviation is rounding: scores are not divided by it."""


@dataclass(frozen=True, slots=True)
class ScoreRules:
    """What is done to raw scores, in the order of the fields."""

    bias: float = 0.0
    """Taken from every score, so that what scores `bias` scores 0."""
    normalize: Literal["none", "scale", "zscore"] = "none"
    """`scale` divides by the running standard deviation; `zscore` takes away the running mean before, after which
    `bias` makes no difference."""
    clip: float | None = None
    """Scores are cut to [-clip, clip]."""
    missing_eos: Literal["none", "subtract", "replace"] = "none"
    """A response that no stop token ended loses `missing_eos_value`, or gets minus it as its score. It comes last, so
    that the penalty is neither scaled nor cut."""
    missing_eos_value: float = 0.0
    """By how much, not negative."""


def processed(raw_B: Tensor, stopped_B: Tensor, rules: ScoreRules, moments: RunningMoments) -> Tensor:
    """Scores for training, of the shape and dtype of `raw_B`; NaN (no score) stays NaN.

    `stopped_B` (bool) says whether a stop token ended the response. `moments` are those of all scores without their
    bias, this batch already taken in by `moments.update(raw_B - rules.bias, reduce)`; they are only read here.
    """
    scores_B = raw_B - rules.bias
    if rules.normalize == "zscore":
        scores_B = scores_B - moments.mean
    if rules.normalize != "none" and moments.std > LEAST_STD:
        scores_B = scores_B / moments.std
    if rules.clip is not None:
        scores_B = scores_B.clamp(-rules.clip, rules.clip)
    match rules.missing_eos:
        case "none":
            return scores_B
        case "subtract":
            return torch.where(stopped_B, scores_B, scores_B - rules.missing_eos_value)
        case "replace":
            return torch.where(stopped_B | scores_B.isnan(), scores_B, -rules.missing_eos_value)
