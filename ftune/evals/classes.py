"""How well a classifier tells classes: accuracy, F1, calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftune.evals.pairs import wilson


def class_report(logits: NDArray[np.float64], classes: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Loss, accuracy with its 95 % interval (Wilson), F1 of each class and their mean.

    `logits` has shape (rows, classes), `classes` (rows,). A class that is neither there nor predicted has no F1.
    """
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    predicted = logits.argmax(1)
    right = predicted == classes
    low, high = wilson(float(right.mean()), len(right))
    by_class = {name: _f1(predicted == place, classes == place) for place, name in enumerate(names)}
    known = [value for value in by_class.values() if value is not None]
    return {
        "loss": float(-log_probabilities[np.arange(len(classes)), classes].mean()),
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "most_frequent_class": float(np.bincount(classes, minlength=len(names)).max() / len(classes)),
        "f1": float(np.mean(known)),
        "f1_by_class": by_class,
        "rows": len(classes),
    }


def _f1(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float | None:
    """2 TP / (2 TP + FP + FN); None where there is nothing to find and nothing was found."""
    found = int((predicted & true).sum())
    asked = int(predicted.sum()) + int(true.sum())
    return 2 * found / asked if asked else None
