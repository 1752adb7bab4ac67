"""All checks at once: each in a thread of its own, none able to end or to hold up the others."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

from ftune.core.errors import FtuneError
from ftune.core.paths import cache_dir
from ftune.launch.doctor import (
    deepspeed_ops,
    gpus,
    kernels,
    limits,
    needs,
    packages,
    ports,
    probe,
    storage,
    surroundings,
)
from ftune.launch.doctor.finding import Finding, error, ok, warning
from ftune.report.environment import environment

LIMIT_S = 15.0
"""A check that takes longer hangs: a dead network disk, a name server that does not answer."""

Check = Callable[[], Iterable[Finding]]


def examine(recipe: Path | None) -> list[Finding]:
    """All findings about this machine, and about a recipe on it."""
    asking = ThreadPoolExecutor(1).submit(probe.ask)  # seconds, in a process of its own; the rest runs meanwhile
    asked, findings = needs.read(recipe) if recipe else (needs.Needs(), [])
    faults = [finding for finding in findings if finding.level == "error"]
    known = cache(environment)
    light = start(
        {
            "machine": lambda: _machine(known()),
            "packages": lambda: packages.judge(packages.gather()),
            "disk": lambda: _disks(asked.output),
            "ports": lambda: ports.judge(ports.gather()),
            "launcher": lambda: surroundings.judge(surroundings.gather()),
            "hub": surroundings.hub,
            "locale": surroundings.language,
        }
    )
    answers = asking.result()
    if answers["ended"]:
        findings.append(Finding("error", "torch", answers["ended"], "see what 'nvidia-smi' and 'import torch' say"))
    found = answers.get("gpus")
    present = found if isinstance(found, list) else []
    heavy = start(_on_torch(answers, present, asked, known, is_recipe=recipe is not None and not faults))
    return [*findings, *heavy(), *light()]


def start(checks: Mapping[str, Check], limit_s: float = LIMIT_S) -> Callable[[], list[Finding]]:
    """Begin the checks, and give the function that waits for their findings, in the order of the checks.

    A check that raises, or is not done `limit_s` seconds after the waiting began, is a warning of its area.
    """
    done: dict[str, list[Finding]] = {}
    threads = {
        area: threading.Thread(target=partial(_run, area, check, done), daemon=True) for area, check in checks.items()
    }
    for thread in threads.values():
        thread.start()

    def wait() -> list[Finding]:
        findings: list[Finding] = []
        for area, thread in threads.items():
            thread.join(limit_s)
            late = warning(area, f"the check did not end within {limit_s:g} s", "a disk or name server may hang")
            findings += done.get(area, [late])
        return findings

    return wait


def _run(area: str, check: Check, done: dict[str, list[Finding]]) -> None:
    try:
        done[area] = list(check())
    except FtuneError as known:  # what a run would end with too
        text, _, remedy = str(known).partition("; ")
        done[area] = [error(area, text, remedy)]
    except Exception as failed:  # whatever the machine had that nobody thought of: the others still count
        said = (str(failed).splitlines() or [""])[0]
        done[area] = [warning(area, f"the check itself failed: {type(failed).__name__}: {said}", "tell ftune's makers")]


def _on_torch(
    answers: Mapping[str, Any],
    present: list[dict[str, Any]],
    asked: needs.Needs,
    known: Callable[[], dict[str, Any]],
    *,
    is_recipe: bool,
) -> dict[str, Check]:
    """The checks that need to know torch and the GPUs."""
    answer = answers.get("torch", {})
    torch = {} if "failed" in answer else answer
    cuda = torch.get("cuda")
    capabilities = [gpu["capability"] for gpu in present]
    processes = asked.on_node(len(present))
    checks: dict[str, Check] = {
        "torch": lambda: _torch(answers),
        "gpu": lambda: gpus.judge(gpus.gather(torch, present)),
        "attention": lambda: kernels.attention(asked.attention, answers.get("flash_attn"), capabilities),
        "bitsandbytes": lambda: kernels.bitsandbytes(
            known()["versions"].get("bitsandbytes"),
            answers.get("bitsandbytes"),
            gpus=bool(present),
            wanted_by=asked.bitsandbytes,
        ),
        "deepspeed": lambda: deepspeed_ops.judge(
            deepspeed_ops.gather(known()["versions"].get("deepspeed"), cuda, gpus=bool(present)), asked.deepspeed_ops
        ),
        "limits": lambda: limits.judge(limits.gather(known()), processes),
    }
    if not torch:  # then nothing is known about what rests on it
        checks = {area: check for area, check in checks.items() if area in ("torch", "deepspeed", "limits")}
    if is_recipe:
        checks = {
            "recipe": lambda: needs.judge(asked, present, has_deepspeed="deepspeed" in known()["versions"]),
            **checks,
        }
    return checks


def _torch(answers: Mapping[str, Any]) -> Iterable[Finding]:
    """That the probe's questions about torch and the GPUs were answered at all."""
    for subject in ("torch", "gpus"):
        answer = answers.get(subject)
        if isinstance(answer, dict) and "failed" in answer:
            yield Finding("error", "torch", f"torch cannot be used: {answer['failed']}", "reinstall torch")
            return
    if torch := answers.get("torch"):
        built = f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "CPUs alone"
        yield ok("torch", f"torch {torch['version']}, built for {built}")


def _machine(found: Mapping[str, Any]) -> Iterable[Finding]:
    versions = found["versions"]
    yield ok("machine", f"ftune {versions['ftune']}, Python {found['python']}, {found['platform']}")


def _disks(output: Path) -> Iterable[Finding]:
    for folder in storage.gather(output, cache_dir()):
        yield from storage.judge(folder)
