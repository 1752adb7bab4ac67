"""What is measured on how many GPUs, the most telling first."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

from backends_parts.material import LARGE, TINY, Size
from ppo_parts.work import Work

SIZES = {"1B": LARGE, "8B": Size(4096, 32, 32, 8, 14_336, 128_256, 2048, 4)}
"""Llama-3.2-1B and Llama-3.1-8B, and the rows that each process computes at once."""

TINY_SIZES = dict.fromkeys(SIZES, TINY)

PPO = Work({}, prompts=64, prompt_tokens=128, new_tokens=256, rounds=0)
"""Prompts of an iteration, for each process."""

TINY_PPO = Work({}, prompts=4, prompt_tokens=8, new_tokens=8, rounds=0)

PPO_ROWS = 8
"""Completions that a process computes at once."""

STEPS = {"1B": 18, "8B": 9}
UNTIMED = 1 / 3
"""Of the steps, which warm up."""

COMPARED = 5
"""The first steps, whose losses are held against those of one process on the same rows."""

Kind = Literal["sft", "same rows", "ppo", "kill"]


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to train a model."""

    name: str
    model: str
    """A key of SIZES; of a kill, MIDDLE of the benchmark of backends."""
    words: tuple[str, ...]
    """Overrides that say the backend."""
    seconds: float
    """What must be left of the time for it to be started."""
    kind: Kind = "sft"


@dataclass(frozen=True, slots=True)
class Job:
    """A setting on a number of GPUs."""

    setting: Setting
    gpus: int
    rows_of: int = 0
    """One process sees as many rows in a step as so many; 0 where each process sees its own."""

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells it from all others."""
        return self.setting.name, self.gpus, self.rows_of

    @property
    def title(self) -> str:
        """For people."""
        rows = f" with the rows of {self.rows_of}" if self.rows_of else ""
        return f"{self.setting.name} on {self.gpus}{rows}"

    @property
    def file(self) -> str:
        """The title as a name of files."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title)

    def words(self, size: Size) -> list[str]:
        """Overrides of the command line."""
        rows = [f"batch.global_batch_size={size.micro * self.rows_of}"] if self.rows_of else []
        steps = [f"schedule.max_steps={COMPARED}"] if self.rows_of else []
        return [*self.setting.words, f"backend.num_processes={self.gpus}", *rows, *steps]


DDP = ("backend.type=ddp",)
FSDP2 = ("backend.type=fsdp",)
ZERO2 = ("backend.type=zero", "backend.stage=2")
ZERO3 = ("backend.type=zero", "backend.stage=3")
OFFLOAD = (*ZERO3, "backend.offload.optimizer=cpu")

KILL = Setting("kill", "100M", (), 100, "kill")
BASE = Setting("1B DDP", "1B", DDP, 40)
"""What one process of it reaches is what all settings of its model are held against."""

SETTINGS = (
    KILL,
    BASE,
    Setting("1B ZeRO-3", "1B", ZERO3, 40),
    Setting("1B FSDP2", "1B", FSDP2, 40),
    Setting("1B ZeRO-2", "1B", ZERO2, 40),
    Setting("8B ZeRO-3", "8B", ZERO3, 75),
    Setting("8B FSDP2", "8B", FSDP2, 75),
    Setting("8B PPO", "8B", DDP, 90, "ppo"),
    Setting("1B same rows", "1B", DDP, 60, "same rows"),
    Setting("8B ZeRO-3, offload", "8B", OFFLOAD, 110),
    Setting("8B same rows", "8B", ZERO3, 110, "same rows"),
)
"""The first one is no measurement of speed: models are written meanwhile."""


def counts(gpus: int) -> list[int]:
    """All GPUs, and the powers of two below, down to one."""
    return [gpus, *(2**power for power in reversed(range(8)) if 2**power < gpus)]


def jobs(gpus: int, patterns: Sequence[str] = ("*",)) -> list[Job]:
    """What is to be run on a machine, in order: all on all GPUs, then on fewer; with DDP, one GPU comes right behind.

    A run is killed on all GPUs alone; one process is its own reference.
    """
    wanted = [setting for setting in SETTINGS if any(fnmatch(setting.name, pattern) for pattern in patterns)]
    found: list[Job] = []
    for count in counts(gpus):
        for setting in wanted:
            if setting.kind == "same rows":
                found += [Job(setting, 1, rows_of=count)] if count > 1 else []
            elif setting.kind != "kill" or count == gpus > 1:
                found.append(Job(setting, count))
            if setting is BASE:
                found.append(Job(BASE, 1))
    return list(dict.fromkeys(found))


def is_done(job: Job, results: Sequence[dict[str, Any]], machine: int, *, retry: bool) -> bool:
    """Whether a job has a result that counts on a machine with so many GPUs.

    One process is measured anew on each machine, since the others are held against it.
    """
    return any(
        key(result) == job.key and (result["machine"] == machine or job.gpus > 1) and not (retry and "error" in result)
        for result in results
    )


def key(result: dict[str, Any]) -> tuple[str, int, int]:
    """Of which job a result is."""
    return result["setting"], result["gpus"], result["rows_of"]
