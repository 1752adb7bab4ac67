"""Functions of one's own: called as TRL calls them, and every way in which they can fail."""

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ftune.core.errors import RewardError
from ftune.rewards.base import Sample, Score, Surroundings
from ftune.rewards.function import Function
from tests.rewards.conftest import chat, said, text

SOURCE = """
import asyncio, math, time
import numpy, torch

seen = {}

def keeps(prompts, completions, completion_ids, **columns):
    seen.update(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
    return [0.0] * len(prompts)

def recalls(completions):
    return [float(len(repr(seen)))] * len(completions)

def only_answers(completions, answer):
    return [float(said[0]["content"] == wanted) for said, wanted in zip(completions, answer)]

async def later(completions, **_):
    await asyncio.sleep(0)
    return [1.5 for _ in completions]

def scalars(completions, **_):
    kinds = [numpy.float32(0.5), torch.tensor(0.5), 1, True, None, numpy.int64(2), numpy.bool_(True), torch.tensor(3)]
    return kinds[: len(completions)]

def raises(completions, **_):
    if any("bad" in said[0]["content"] for said in completions):
        raise KeyError("word")
    return [0.0] * len(completions)

def together(completions, **_):
    if len(completions) > 1:
        raise ValueError("one at a time")
    return [0.0]

def leaves(completions, **_):
    raise SystemExit(3)

def hangs(completions, **_):
    time.sleep(30)

def nan(completions, **_):
    return [math.nan if said[0]["content"] == "bad" else 0.0 for said in completions]

def too_few(completions, **_):
    return [0.0]

def word(completions, **_):
    return ["high"] * len(completions)

def tensor(completions, **_):
    return torch.zeros(len(completions))

def tensors(completions, **_):
    return [torch.zeros(2)] * len(completions)

def huge(completions, **_):
    return [10 ** 400] * len(completions)

def nothing(completions, **_):
    pass

def silently(completions, **_):
    raise StopIteration

number = 3
largest = max
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The functions."""
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path / "mine.py"


def call(file: Path, name: str, samples: list[Sample], **keys: Any) -> list[Score]:
    """What a function says."""
    return Function(function=f"{file}:{name}", **keys).open(Surroundings())(samples)


def test_it_gets_what_trl_gives(file: Path) -> None:
    source = Function(function=f"{file}:keeps")
    first = chat("hello", "the cat", columns={"answer": "x", "prompt": "raw"}, token_ids=[5, 6, 2])
    second = text("hello", " sat", columns={"level": 3}, token_ids=[7])
    scorer = source.open(Surroundings())
    scorer([first, second])
    seen = _module_of(scorer).seen
    assert seen["prompts"] == [[{"role": "user", "content": "hello"}], "hello"]
    assert seen["completions"] == [[{"role": "assistant", "content": "the cat"}], " sat"]
    assert seen["completion_ids"] == [[5, 6, 2], [7]]
    assert seen["answer"] == ["x", None]
    assert seen["level"] == [None, 3]
    assert "prompt" not in seen
    assert seen["trainer_state"] is None
    seen["log_metric"]("name", 1.0)
    seen["log_extra"]("name", [])


def _module_of(scorer: Any) -> Any:
    """The globals of the function behind a scorer, as an object."""
    function = next(cell.cell_contents for cell in scorer.__closure__ if hasattr(cell.cell_contents, "_function"))
    return type("Module", (), function._function.__globals__)


def test_it_gets_only_what_it_names_without_further_keywords(file: Path) -> None:
    samples = [chat("a", "x", columns={"answer": "x", "other": 1}), chat("a", "y", columns={"answer": "x"})]
    assert call(file, "only_answers", samples) == [1.0, 0.0]


def test_it_may_be_asynchronous(file: Path) -> None:
    assert call(file, "later", said("a", "b")) == [1.5, 1.5]


def test_scalars_of_any_kind_are_numbers(file: Path) -> None:
    numbers = call(file, "scalars", said(*"abcdefgh"))
    assert numbers == [0.5, 0.5, 1.0, 1.0, None, 2.0, 1.0, 3.0]
    assert {type(number) for number in numbers} == {float, type(None)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", r"rows\.jsonl:2: raised KeyError: 'word' \(.*mine\.py, line \d+\)"),
        ("together", r"^rows\.jsonl:1 to rows\.jsonl:3: raised ValueError: one at a time"),
        ("leaves", r"rows\.jsonl:1: raised SystemExit: 3"),
        ("nan", r"rows\.jsonl:2: returned nan \(float\)"),
        ("too_few", r"^rows\.jsonl:1 to rows\.jsonl:3: returned 1 numbers for 3 samples"),
        ("word", r"rows\.jsonl:1: returned 'high' \(str\)"),
        ("tensor", r"returned tensor.*\(Tensor\).*tolist"),
        ("tensors", r"rows\.jsonl:1: returned tensor.*\(Tensor\)"),
        ("huge", r"rows\.jsonl:1: returned 1000.*\(int\)"),
        ("nothing", r"returned None \(NoneType\)"),
    ],
)
def test_what_it_does_wrong_is_named_with_the_row(file: Path, name: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        call(file, name, said("fine", "bad", "fine"))


def test_its_line_is_named_whatever_path_led_to_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(RewardError, match=r"raised KeyError: 'word' \(mine\.py, line 27\)$"):
        call(Path("mine.py"), "raises", said("bad"))
    with pytest.raises(RewardError, match=r"raised StopIteration \(mine\.py, line \d+\)$"):
        call(Path("mine.py"), "silently", said("bad"))


def test_a_function_whose_parameters_cannot_be_known_is_refused(file: Path) -> None:
    with pytest.raises(RewardError, match=r"no signature found for builtin .*; give a function that calls it"):
        call(file, "largest", said("a"))


def test_a_function_that_hangs_is_given_up(file: Path) -> None:
    started = time.monotonic()
    with pytest.raises(RewardError, match=r"^rows\.jsonl:1 to rows\.jsonl:2: no answer within 0\.1 seconds"):
        call(file, "hangs", said("a", "b"), timeout_s=0.1)
    assert time.monotonic() - started < 10


def test_faults_are_found_without_running_the_file(file: Path, tmp_path: Path) -> None:
    def fault(function: str) -> str:
        ((place, message),) = Function(function=function).faults()
        assert place == ("function",)
        return message

    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "ends.py").write_text("raise SystemExit\ndef f(): ...\n")
    (tmp_path / "star.py").write_text("from somewhere import *\n")
    assert "did you mean 'keeps'" in fault(f"{file}:keep")
    assert "cannot be read" in fault(f"{tmp_path}/none.py:f")
    assert "no Python" in fault(f"{tmp_path}/broken.py:f")
    assert not list(Function(function=f"{tmp_path}/ends.py:f").faults())
    assert not list(Function(function=f"{tmp_path}/star.py:f").faults())
    assert not list(Function(function=f"{file}:keeps").faults())


def test_a_file_that_does_not_load_is_named_with_its_line(file: Path, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("\nimport no_such_thing_at_all\n\ndef f(): ...\n")
    with pytest.raises(RewardError, match=r"ModuleNotFoundError: .*fails\.py, line 2"):
        call(tmp_path / "fails.py", "f", said("a"))
    with pytest.raises(RewardError, match=r"'number' in .* is no function"):
        call(file, "number", said("a"))


@pytest.mark.parametrize("given", ["mine.py", "mine:f", "mine.py:", "mine.py:f()", ":f"])
def test_another_form_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match=r"path\.py:name"):
        Function(function=given)


def test_the_file_is_looked_up_beside_the_recipe_and_hashed(file: Path) -> None:
    context = {"folders": [Path(), file.parent]}
    source = Function.model_validate({"function": "mine.py:keeps"}, context=context)
    assert source.file == file
    assert source.sha256() == hashlib.sha256(SOURCE.encode()).hexdigest()
