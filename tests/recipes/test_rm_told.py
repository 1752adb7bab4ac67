"""What a person is told of the last look at the held-out rows."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ftune.core.errors import DataError
from ftune.core.say import Say
from ftune.evals.classes import class_report
from ftune.recipes.runs.judged import tell_judged
from ftune.recipes.runs.rm import tell_margins
from ftune.trainers.rm import Judged


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([1] * 40, "all held-out rows are of one class"),
        ([0, 1, 1, 1] * 10, "not surely better than always taking the most frequent class"),
        ([0, 1] * 20, ""),
    ],
)
def test_a_classifier_is_held_against_its_most_frequent_class(
    capsys: pytest.CaptureFixture[str], classes: list[int], words: str
) -> None:
    said_right = np.array(classes if len(set(classes)) == 1 or sum(classes) == 20 else [1] * 40)
    logits = np.stack([1.0 - said_right, said_right], 1)
    facts = class_report(logits, np.array(classes), ["bad", "good"])
    tell_judged(Judged(facts, logits[:, 1], None), Say())
    said = " ".join(capsys.readouterr().err.split())
    assert "warning" not in said if not words else words in said
    assert said.count("warning") == bool(words)


def test_margins_are_counted_and_odd_ones_told(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*margins: float) -> Any:
        return SimpleNamespace(inputs=SimpleNamespace(train=SimpleNamespace(scores=np.float32(margins))), say=Say())

    nan = float("nan")
    tell_margins(run(1.0, 2.0, nan, 0.0))
    assert capsys.readouterr().err == "margins: 3 of 4 pairs have one, 1 on average\n"
    tell_margins(run(1.0, -2.0))
    assert "warning: 1 pair with a margin below 0" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"margin: no training pair has one; .* 'margin: false'"):
        tell_margins(run(nan, nan))
