"""Runs that are killed again and again, in saves and between them: nothing is lost, the result is that of one run."""

import hashlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ftune.core.checkpoints import STAGING, newest_valid
from ftune.report.events import read_events
from tests.e2e.test_stops import steps
from tests.forked import Forked

Write = Callable[..., Path]
STEPS = 100
ENDS_IN_S = 30.0
"""How long the others may go on when one process is gone."""


@pytest.fixture(params=[1, 2])
def ranks(request: pytest.FixtureRequest) -> int:
    """How many processes a run has."""
    return int(request.param)


def written(recipe: Write, ranks: int, **sections: object) -> Path:
    """A recipe for so many processes whose result shows every lost or repeated step: a checkpoint every 2, dropout."""
    return recipe(
        **{
            "schedule": {"max_steps": STEPS},
            "checkpoint": {"every": 2},
            "peft": {"type": "lora", "dropout": 0.1},
            "backend": {"type": "ddp", "num_processes": ranks, "device": "cpu"} if ranks > 1 else {"type": "single"},
        }
        | sections
    )


def digest(run: Path) -> str:
    return hashlib.sha256((run / "adapter/adapter_model.safetensors").read_bytes()).hexdigest()


def steps_told(run: Path) -> list[int]:
    return [event["step"] for event in read_events(run / "events.jsonl") if event["kind"] == "step"]


def in_a_save(run: Path, since: float) -> bool:
    """Whether a checkpoint is being written, or was when the run was killed; an earlier one may have left something."""
    for folder in (run / STAGING).glob("checkpoint-*"):
        with suppress(FileNotFoundError):
            if folder.stat().st_ctime > since:
                return True
    return False


def killed_somewhere(path: Path, run: Path, ranks: int, chance: random.Random, *, inside: bool) -> Counter[str]:
    """Start or resume, and kill at a moment of chance; counts what was hit."""
    started_at = time.time()
    process = Forked("sft", path, f"output_dir={run}", "--resume", cwd=path.parent, ranks=ranks)
    begun, more = steps(run), chance.randrange(4)
    starting = not (inside or more)
    if starting:
        time.sleep(2 * chance.random())
    else:
        process.until(lambda: steps(run) >= begun + more)
        if inside:
            process.until(lambda: in_a_save(run, started_at))
        time.sleep(chance.random() * (0.01 if inside else 0.1))
    # Before they have met, only a launcher would see that one is gone.
    victims = [] if ranks == 1 or starting else chance.choice([[], [0], [1]])
    lived = process.running
    process.kill(*victims)
    hit = in_a_save(run, started_at)
    codes = process.wait(ENDS_IN_S)  # whoever was not killed ends by itself
    assert -signal.SIGKILL in codes or not lived
    assert 0 not in codes or not lived
    return Counter(kills=lived, inside=lived and hit)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_twenty_times_it_ends_as_if_never(recipe: Write, tmp_path: Path, ranks: int) -> None:
    path, run, chance = written(recipe, ranks), tmp_path / "runs/killed", random.Random(ranks)  # noqa: S311
    whole = Forked("sft", path, "output_dir=runs/whole", cwd=tmp_path, ranks=ranks)
    assert set(whole.wait()) == {0}, whole.said()
    hits: Counter[str] = Counter()
    while hits["inside"] < 10 or hits["kills"] - hits["inside"] < 10:
        hits += killed_somewhere(path, run, ranks, chance, inside=hits["inside"] < 10)
        assert hits["kills"] < 60, "saves are hardly hit"
        assert steps(run) < STEPS, "it has ended before it was killed often enough"
    last = Forked("sft", path, f"output_dir={run}", "--resume", cwd=tmp_path, ranks=ranks)
    assert set(last.wait()) == {0}, last.said()
    assert "damaged" not in last.said()
    print(f"{ranks} ranks: {hits['kills']} kills, {hits['inside']} of them in a save")
    assert digest(run) == digest(tmp_path / "runs/whole")
    assert steps_told(run) == [*range(1, STEPS + 1)]


def test_killed_in_a_save_and_between_two(recipe: Write, tmp_path: Path) -> None:
    path, run = written(recipe, 2, schedule={"max_steps": 12}), tmp_path / "runs/killed"
    whole = Forked("sft", path, "output_dir=runs/whole", cwd=tmp_path, ranks=2)
    assert set(whole.wait()) == {0}, whole.said()
    first = Forked("sft", path, f"output_dir={run}", "--resume", cwd=tmp_path, ranks=2)
    assert first.until(lambda: steps(run) >= 3 and in_a_save(run, 0))
    first.kill()
    assert set(first.wait()) == {-signal.SIGKILL}
    kept = newest_valid(run).step
    assert kept >= 2
    second = Forked("sft", path, f"output_dir={run}", "--resume", cwd=tmp_path, ranks=2)
    assert second.until((run / f"checkpoint-{kept + 2}").is_dir)
    second.kill(1)
    killed_at = time.monotonic()
    assert second.wait(ENDS_IN_S)[1] == -signal.SIGKILL
    assert time.monotonic() < killed_at + ENDS_IN_S
    assert "process 1 (" in second.said()
    assert "is gone without a word" in second.said()
    last = Forked("sft", path, f"output_dir={run}", "--resume", cwd=tmp_path, ranks=2)
    assert set(last.wait()) == {0}, last.said()
    assert digest(run) == digest(tmp_path / "runs/whole")
    assert steps_told(run) == [*range(1, 13)]
