"""`ftune plan --probe`: what a short run measures, why one fails, and that nothing of it stays."""

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ftune.core.errors import FtuneError, RecipeError
from ftune.recipes.load import Loaded, load_recipe
from ftune.recipes.runs.plan_command import Wanted, planned
from ftune.recipes.runs.plan_probe import Probe, probe
from tests.conftest import Done

RUN = """
import json, sys
from pathlib import Path
from ftune.recipes.load import load_recipe

recipe = load_recipe(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]).recipe
assert recipe.schedule.max_steps == 3 and recipe.schedule.epochs is None and recipe.checkpoint.every == "never"
folder = Path(recipe.output_dir)
folder.mkdir()
(folder / "ftune.json").write_text('{"state": "done"}')
(folder / "recipe.resolved.json").write_text(json.dumps(recipe.resolved()))
(folder / "data.json").write_text('{"train": {"counts": {"kept": 24, "longest": 60, "tokens": 1000}}}')
events = [{"kind": "model", "device": "NVIDIA H100 80GB HBM3"}]
step = {"kind": "step", "tokens": 100}
events += [{**step, "step": n, "tokens_per_s": 10.0**n, "memory_gib": 0.5 * n} for n in (1, 2, 3)]
(folder / "events.jsonl").write_text("".join(json.dumps({"time": "2026-01-01T00:00:00", **e}) + "\\n" for e in events))
"""
"""Stands for `ftune`: it writes what a run of three steps on a GPU leaves."""


def of(program: str) -> Callable[[Sequence[str]], list[str]]:
    """The command that runs it with the words after `ftune`."""
    return lambda words: [sys.executable, "-c", program, *words]


@pytest.fixture
def loaded(recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loaded:
    """The tiny recipe, and a folder of its own for what is temporary."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return load_recipe("sft", recipe(schedule={"epochs": 2}, data={"train": "rows.jsonl", "max_length": 128}))


def probed(loaded: Loaded, program: str) -> Probe:
    """What it measures of the recipe."""
    given: Any = loaded.recipe
    return probe(loaded, given, of(program), 0)


def test_the_last_steps_count_and_nothing_stays(loaded: Loaded, capfd: pytest.CaptureFixture[str]) -> None:
    found = probed(loaded, RUN)
    assert capfd.readouterr().err.startswith("probe: 3 steps of ")
    assert found.seconds == pytest.approx((1.0 + 0.1) / 2)
    assert found.tokens_per_s == pytest.approx(200 / 1.1)
    assert found.peak == round(1.5 * 2**30)
    assert (found.rows.count, found.rows.longest, found.rows.tokens) == (24, 60, 1000)
    assert found.rows.said_by == "the rows, as the probe has counted them"
    assert list(Path("temporary").iterdir()) == []
    assert not Path("runs").exists()


def test_the_plan_goes_by_it(loaded: Loaded) -> None:
    text = planned(loaded.path, [], Wanted(price=1.0, probe=of(RUN)))
    assert "at 182 tokens a second (measured by a probe of 3 steps)" in " ".join(text.split())
    assert "peak of the probe" in text
    assert "predicted: -" in text  # of a tiny model
    content = json.loads(planned(loaded.path, [], Wanted(probe=of(RUN)), as_json=True))
    assert content["hours"] == pytest.approx(2000 / (200 / 1.1) / 3600, abs=1e-4)
    assert content["probe"]["peak"] == round(1.5 * 2**30)


@pytest.mark.parametrize(
    ("program", "kind", "said"),
    [
        ("sys.exit('loading\\nerror: rows.jsonl:3: no text')", FtuneError, "rows.jsonl:3: no text"),
        ("print('errors:\\nr.yaml:1: a\\nr.yaml:2: b', file=sys.stderr); sys.exit(2)", RecipeError, "r.yaml:1: a"),
        ("os.kill(os.getpid(), 9)", FtuneError, "the run was killed by SIGKILL"),
        ("sys.exit(3)", FtuneError, "the run ended with exit code 3 and said nothing"),
    ],
    ids=["error", "errors", "killed", "silent"],
)
def test_a_failure_is_one_line_with_its_cause(loaded: Loaded, program: str, kind: type[FtuneError], said: str) -> None:
    with pytest.raises(FtuneError) as failed:
        probed(loaded, f"import os, sys; {program}")
    assert str(failed.value) == f"--probe: {said}"
    assert failed.value.exit_code == kind.exit_code
    assert list(Path("temporary").iterdir()) == []


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_run_and_nothing_stays(
    loaded: Loaded, number: signal.Signals, raised: type[BaseException]
) -> None:
    program = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # xdist's workers ignore it
    threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
    try:
        with pytest.raises(raised):
            probed(loaded, program)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)
    assert list(Path("temporary").iterdir()) == []


@pytest.mark.parametrize("word", ["--gpu=h100", "--num-gpus=2", "--nodes=2", "--params=7B"])
def test_it_measures_this_machine_and_no_other(
    recipe: Callable[..., Path], ftune: Callable[..., Done], word: str
) -> None:
    done = ftune("plan", recipe(), "--probe", word)
    assert done.code == 2
    assert f"--probe: it measures the recipe on this machine; leave out {word.partition('=')[0]}" in done.err


@pytest.mark.slow
def test_a_real_probe(recipe: Callable[..., Path], ftune: Callable[..., Done]) -> None:
    path = recipe(batch={"micro_batch_size": "auto", "global_batch_size": 4}, backend={"device": "cpu"})
    done = ftune("plan", path, "--probe", "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert content["rows"] == {
        "count": 24,
        "tokens": content["rows"]["tokens"],
        "said_by": "the rows, as the probe has counted them",
    }
    assert content["tokens_per_s"] > 0
    assert content["probe"]["peak"] is None
    assert not Path("runs").exists()
