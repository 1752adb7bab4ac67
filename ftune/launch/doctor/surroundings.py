"""What the environment says: launchers, the hub, the locale."""

import locale
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ftune.core.errors import LaunchError
from ftune.core.paths import expanded, user_cache
from ftune.core.several import several
from ftune.core.world import LAUNCHER, World, joined
from ftune.launch.doctor.finding import Finding, error, ok, warning
from ftune.launch.doctor.ports import call

MARKS = ("TORCHELASTIC_RUN_ID", LAUNCHER, "SLURM_STEP_ID", "ACCELERATE_MIXED_PRECISION")
"""Set by launchers for the processes that they start, never by hand."""
SHOWN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID")


@dataclass(frozen=True)
class Launcher:
    """The variables of launchers that are set in this environment."""

    world: World | None
    fault: str
    """Why they make no world; empty where they do, or where there are none."""
    shown: Mapping[str, str]
    """Those of SHOWN."""
    marked: bool
    """One of MARKS is set."""
    accelerate: tuple[str, ...]
    """Names of accelerate's and DeepSpeed's variables."""
    answered: bool | None
    """Whether something listens at MASTER_ADDR:MASTER_PORT; None where they are not set."""


def gather(environment: Mapping[str, str] | None = None) -> Launcher:
    """Read the environment, and knock at the address that it gives."""
    given = os.environ if environment is None else environment
    world, fault = None, ""
    try:
        world = joined(given)
    except LaunchError as wrong:
        fault = str(wrong)
    port, address = given.get("MASTER_PORT", ""), given.get("MASTER_ADDR", "")
    names = (name for name in given if name.startswith(("ACCELERATE_", "FSDP_", "DEEPSPEED_")))
    return Launcher(
        world,
        fault,
        {name: given[name] for name in SHOWN if name in given},
        any(name in given for name in MARKS),
        tuple(sorted(names)),
        not call(address, int(port)) if address and port.isdecimal() else None,
    )


def judge(facts: Launcher) -> Iterator[Finding]:
    """Whether `ftune sft` would start processes of its own here, join others, or wait for some that never come."""
    shown = " ".join(f"{name}={value}" for name, value in facts.shown.items())
    names = " ".join(name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE") if name in facts.shown)
    leave = f"if no launcher started this shell: unset {names}"
    if facts.fault:
        yield error("launcher", f"{shown}: {facts.fault}", leave)
    elif facts.world is None and names:
        yield warning("launcher", f"{shown}: half of what a launcher sets; it is not heeded", f"unset {names}")
    elif facts.world is None:
        where = f" (in Slurm's job {facts.shown['SLURM_JOB_ID']})" if "SLURM_JOB_ID" in facts.shown else ""
        yield ok("launcher", f"none around this process{where}: ftune starts the processes itself")
    elif facts.world.count > 1 and not facts.marked and not (facts.answered or facts.world.rank == 0):
        yield error(
            "launcher",
            f"{shown}: 'ftune sft' would wait for process 0 here, and nothing answers at its address",
            leave,
        )
    elif facts.world.count > 1 and not facts.marked:
        others = several(facts.world.count - 1, "other process", "other processes")
        yield warning("launcher", f"{shown}: 'ftune sft' would join and wait for {others}", leave)
    else:
        world = facts.world
        nodes = several(world.nodes, "node")
        yield ok("launcher", f"started by {world.launcher}: rank {world.rank} of {world.count}, on {nodes}")
    if facts.accelerate and facts.world is None:
        yield warning(
            "launcher",
            f"{', '.join(facts.accelerate)} set outside `accelerate launch`: the recipe rules, they are not heeded",
            "unset them",
        )


def hub() -> Iterator[Finding]:
    """Whether the hub would know this user; the token itself is never read into a message."""
    folder = expanded(os.environ.get("HF_HOME") or user_cache() / "huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or folder / "token")
    stored = file.is_file() and file.stat().st_size > 0
    is_offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    offline = "; HF_HUB_OFFLINE is set: only what is in the cache can be loaded" if is_offline else ""
    if os.environ.get("HF_TOKEN") or stored:
        yield ok("hub", f"logged in (not checked with the hub){offline}")
    else:
        yield ok("hub", f"not logged in: gated and private models cannot be loaded; 'hf auth login' does that{offline}")


def language() -> Iterator[Finding]:
    """Whether text goes in and out as UTF-8."""
    yield from judge_encodings(locale.getpreferredencoding(do_setlocale=False), sys.getfilesystemencoding())


def judge_encodings(text: str, names: str) -> Iterator[Finding]:
    """Of files and streams by default, and of file names."""
    wrong = [name for name in (text, names) if name.lower().replace("-", "").replace("_", "") != "utf8"]
    if wrong:
        yield warning("locale", f"text is {wrong[0]} here, not UTF-8", "export LC_ALL=C.UTF-8 (or PYTHONUTF8=1)")
    else:
        yield ok("locale", "UTF-8")
