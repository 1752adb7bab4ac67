"""Time and memory of merging a LoRA adapter of rank 16 into its base: `ftune merge` beside PEFT and the bare disk.

    python scripts/benchmarks/merge.py 1b --work /tmp/merge              # 2.5 GB, and 5 GB more for the results
    python scripts/benchmarks/merge.py 8b --work /tmp/merge              # 16 GB, and 32 GB more
    python scripts/benchmarks/merge.py 1b --work /tmp/merge --rounds 3   # the fastest of three of each
    python scripts/benchmarks/merge.py tiny --work /tmp/merge            # a try

The base has random weights in bf16, in files of at most 5 GB; the adapter changes all linear layers. They are written
to --work once and stay there. Each way is a process of its own, whose time counts from its start: `ftune merge
--no-verify`, and PEFT's `from_pretrained`, `merge_and_unload` and `save_pretrained`. Before each the base is taken out
of the disk's cache, and whatever waits to be written is written. ftune has all of its result on the disk, and hashed,
when it ends; PEFT has not, so the time until its result is there, too, is told beside. The disk's own limit is copying
the files of the base, likewise from a cold cache until all is on the disk.

Peak memory is told as anonymous memory, which a program has allocated, and as resident memory (VmHWM), where pages of
mapped files count too. Both results are compared value by value. Every measurement is a JSON line on stdout.
"""

import argparse
import json
import os
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from merge_parts.comparing import difference
from merge_parts.disk import copy_durably, make_cold, make_durable, size_of
from merge_parts.material import ADAPTER, BASE, SHAPES, make_material
from merge_parts.watching import watch

Result = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
COPY, PEFT, FTUNE = "copy of the base", "PEFT", "ftune merge"
HEAD = ("", "seconds", "until on disk", "CPU s", "anonymous GiB", "resident GiB", "MB/s")
TIMED = re.compile(r"(loaded|merged|saved) after|written in")
"""What both ways say of their parts."""

COPIES = 2
"""Results that lie on the disk beside the base at one time."""


def commands(work: Path) -> dict[str, list[str]]:
    """Both ways of merging; each writes into a folder of its name."""
    adapter, base = str(work / ADAPTER), str(work / BASE)
    ftune = [sys.executable, "-m", "ftune", "merge", adapter, "--base", base, "--no-verify"]
    return {
        PEFT: [sys.executable, "-m", "merge_parts.peft_way", adapter, base, str(output(work, PEFT))],
        FTUNE: [*ftune, "--output", str(output(work, FTUNE))],
    }


def output(work: Path, way: str) -> Path:
    """Where a result goes."""
    return work / "out" / way.replace(" ", "-")


def environment() -> dict[str, str]:
    """Of both ways: offline, with this tree's ftune."""
    paths = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}


def measure_copy(work: Path) -> Result:
    """The disk's own limit."""
    target = output(work, COPY)
    make_cold(work / BASE)
    seconds = copy_durably(work / BASE, target)
    written = size_of(target)
    shutil.rmtree(target)
    return {"way": COPY, "seconds": seconds, "durable_s": seconds, "bytes": written}


def measure(work: Path, way: str) -> Result:
    """One way of merging; its result stays."""
    shutil.rmtree(output(work, way), ignore_errors=True)
    os.sync()
    make_cold(work / BASE)
    load = os.getloadavg()[0]
    watched = watch(commands(work)[way], environment())
    rest_s = make_durable(output(work, way))
    found = {key: value for key, value in asdict(watched).items() if key != "said"}
    said = [f"{at:.1f} s: {line.strip()}" for at, line in watched.said if TIMED.search(line)]
    durable_s, written = watched.seconds + rest_s, size_of(output(work, way))
    return {"way": way, **found, "durable_s": durable_s, "bytes": written, "load_before": load, "said": said}


def markdown(results: list[Result]) -> str:
    """A row for each way, of its fastest round; and how ftune compares with PEFT."""
    fastest = {way: min((each for each in results if each["way"] == way), key=_durable) for way in _ways(results)}
    lines = ["| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 1)]
    lines += ["| " + " | ".join(_cells(result)) + " |" for result in fastest.values()]
    if PEFT in fastest and FTUNE in fastest:
        peft, ours = fastest[PEFT], fastest[FTUNE]
        names = ("seconds", "durable_s", "cpu_s", "anonymous_gib", "resident_gib")
        ratios = [f"{peft[name] / ours[name]:.2f} x less" for name in names]
        lines.append("| " + " | ".join(["ftune beside PEFT", *ratios, ""]) + " |")
    return "\n".join(lines)


def _ways(results: list[Result]) -> list[str]:
    return [way for way in (COPY, PEFT, FTUNE) if any(each["way"] == way for each in results)]


def _durable(result: Result) -> float:
    return float(result["durable_s"])


def _cells(result: Result) -> list[str]:
    names = ("seconds", "durable_s", "cpu_s", "anonymous_gib", "resident_gib")
    cells = [f"{result[name]:.2f}" if name in result else "" for name in names]
    return [result["way"], *cells, f"{result['bytes'] / 1e6 / result['durable_s']:,.0f}"]


def told(result: Result) -> Result:
    """Print a result as a line."""
    print(json.dumps({key: round(each, 3) if isinstance(each, float) else each for key, each in result.items()}))
    sys.stdout.flush()
    return result


def main() -> None:
    """Measure, compare and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("--work", type=Path, required=True, help="a folder for base, adapter and results")
    parser.add_argument("--rounds", type=int, default=1, help="of each way; the fastest is in the table")
    parser.add_argument("--ways", nargs="+", choices=[COPY, PEFT, FTUNE], default=[COPY, PEFT, FTUNE])
    given = parser.parse_args()
    work = given.work.resolve() / given.shape
    make_material(work, given.shape)
    need, free = COPIES * size_of(work / BASE), shutil.disk_usage(work).free
    if need > free:
        parser.error(f"{work}: the results need {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    shutil.rmtree(work / "out", ignore_errors=True)
    results = []
    for _ in range(given.rounds):
        for way in given.ways:
            results.append(told(measure_copy(work) if way == COPY else measure(work, way)))
    if {PEFT, FTUNE} <= set(given.ways):
        told({"way": "difference", **asdict(difference(output(work, PEFT), output(work, FTUNE)))})
    shutil.rmtree(work / "out", ignore_errors=True)
    print(markdown(results))


if __name__ == "__main__":
    main()
