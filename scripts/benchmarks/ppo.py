"""What PPO costs on a 1B Llama: tokens per second of each rollout engine, an iteration's time and memory, and TRL's.

    python scripts/benchmarks/ppo.py --only rollout --check     # engines, and proof that they sample from the policy
    python scripts/benchmarks/ppo.py --only iteration           # `ftune ppo` itself, part by part
    python scripts/benchmarks/ppo.py --only trl --trl-path DIR  # TRL 1.12's experimental PPO, installed in DIR
    python scripts/benchmarks/ppo.py --tiny                     # everything in a try-out size on a CPU

The model has the shape of Llama-3.2-1B and random weights, made on the device; LoRA of rank 16 on its seven linear
maps, with factors that are not zero. 128 prompts of 128 random tokens are completed by 256 tokens each. TRL 1.12 is the
last that has PPO (`pip install --no-deps --target DIR trl==1.12.0`); it runs in a process of its own. Rates are of the
fastest round after the first, which compiles. Every result is a JSON line on stdout; a failure is one too, and the rest
goes on.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ppo_parts.iteration import iteration_part
from ppo_parts.memory import memory_part
from ppo_parts.rollout import ENGINES, rollout_part
from ppo_parts.work import LARGE, TINY, Result, Work, told


def trl_part(work: Work, given: argparse.Namespace) -> list[Result]:
    """TRL's PPO in a process that finds the version in `--trl-path` first."""
    if not given.trl_path:
        return [told({"part": "trl", "case": "TRL 1.12", "error": "not run: give --trl-path"})]
    here = Path(__file__).parent
    command = [sys.executable, "-m", "ppo_parts.trl", *(["--tiny"] if work is TINY else [])]
    paths = [str(given.trl_path), str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"part"')]
    lines = lines or [{"part": "trl", "case": "TRL 1.12", "error": f"ended with {done.returncode}"}]
    return [told(line) for line in lines]


PARTS = {"rollout": rollout_part, "iteration": iteration_part, "memory": memory_part, "trl": trl_part}


def table(results: Sequence[Result]) -> str:
    """Rates, times and memory for people."""
    columns = (
        "case",
        "tokens_per_s",
        "iteration_s",
        "rollout_s",
        "seconds",
        "loaded_gib",
        "peak_gib",
        "rest_gib",
        "error",
    )
    lines = ["  ".join(f"{name:>14}" for name in columns)]
    for result in results:
        if result["part"] not in ("check", "profile"):
            cells = [result.get(name) for name in columns]
            shown = [min(cell) if isinstance(cell, list) and cell else cell for cell in cells]
            lines.append("  ".join(f"{'' if cell is None else cell!s:>14}" for cell in shown))
    return "\n".join(lines)


def ratios(results: Sequence[Result]) -> str:
    """How the best iteration of ftune compares with TRL's best; empty where one of them is missing."""
    done = [result for result in results if result.get("iteration_s")]
    theirs = [result for result in done if result["part"] == "trl"]
    ours = [result for result in done if result["part"] == "iteration"]
    if not theirs or not ours:
        return ""
    lines = []
    for result in ours:
        speed = min(theirs[0]["iteration_s"]) / min(result["iteration_s"])
        lines.append(f"{result['case']}: {speed:.1f} x the iterations of TRL 1.12")
        if result["peak_gib"] and theirs[0]["peak_gib"]:
            lines[-1] += f" in {result['peak_gib'] / theirs[0]['peak_gib']:.2f} x its memory"
    return "\n".join(lines)


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--engines", nargs="*", choices=list(ENGINES), default=list(ENGINES), help="of --only rollout")
    parser.add_argument("--engine", default="graph", help="type of the engine in iterations")
    parser.add_argument("--micro-batch-size", type=int, default=16, help="of iterations")
    parser.add_argument("--check", action="store_true", help="hold engines against the model")
    parser.add_argument("--profile", action="store_true", help="show where the device's time goes in a rollout")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--trl-path", type=Path, help="folder with trl 1.12")
    given = parser.parse_args()
    work = TINY if given.tiny else LARGE
    results = [result for name in PARTS if given.only in (None, name) for result in PARTS[name](work, given)]
    print(table(results))
    print(ratios(results))


if __name__ == "__main__":
    main()
