"""Completions for people to read: `samples.jsonl` in the run folder, a few on the terminal."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftune.core.checkpoints import storage_errors
from ftune.core.say import Say

FILE = "samples.jsonl"
SHOWN_CHARACTERS = 160


def write_samples(folder: Path, samples: Sequence[dict[str, Any]]) -> None:
    """Append samples as JSON Lines; each says in which iteration it was made and from what."""
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    with storage_errors(folder / FILE), (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(lines)


def forget_samples(folder: Path, iteration: int) -> None:
    """Remove the samples of later iterations, which a resumed run makes again."""
    path = folder / FILE
    if not path.is_file():
        return
    with storage_errors(path):
        kept = []
        for line in path.read_text(encoding="utf-8").split("\n"):  # texts may hold other line separators
            try:
                sample = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            if sample["iteration"] <= iteration:
                kept.append(line + "\n")
        path.write_text("".join(kept), encoding="utf-8")


def show_samples(say: Say, title: str, samples: Sequence[dict[str, Any]]) -> None:
    """A few samples: prompt, completion, score and KL."""
    say.line(title)
    for sample in samples:
        score = "no score" if sample["score"] is None else f"score {sample['score']:.3g}"
        end = "" if sample["stopped"] else " (cut)"
        say.line(f"  {_short(sample['prompt'])}")
        say.line(f"    {score}, KL {sample['kl']:.3g}: {_short(sample['completion'])}{end}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."
