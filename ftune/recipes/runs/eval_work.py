"""The completions of an evaluation as work that processes share, and what an interrupted one has left of it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.checkpoints import storage_errors
from ftune.core.say import Say
from ftune.evals.generate import Completion, complete
from ftune.recipes.runs.eval_questions import Questions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PARTIAL = "partial"
"""Folder of completions that are not all done."""


@dataclass(frozen=True, slots=True)
class Work:
    """Who completes what. Processes get it when they start; later they learn nothing from each other."""

    tokenizer: "PreTrainedTokenizerBase"
    prompts: list[list[int]]
    """The tokens of each row's prompt."""
    stops: tuple[int, ...]
    max_new_tokens: int
    batch_size: int
    files: Mapping[str, Path]
    """Of each model by its name, `FILE.N.jsonl` has what process N completed."""
    missing: Mapping[str, list[int]]
    """Of each model, the rows that are not completed yet."""
    processes: int = 1

    def share(self, name: str, process: int) -> list[int]:
        """The rows that a process completes with a model: every N-th batch of rows of like length."""
        longest_first = sorted(self.missing[name], key=lambda row: -len(self.prompts[row]))
        starts = range(process * self.batch_size, len(longest_first), self.processes * self.batch_size)
        return [row for start in starts for row in longest_first[start : start + self.batch_size]]

    def complete(self, name: str, model: "PreTrainedModel", process: int, told: Callable[[int], None]) -> None:
        """Complete a share with a model, each row into its file as soon as it is done; `told` is called with 1 then."""
        rows = self.share(name, process)
        file = _of_process(self.files[name], process)
        with storage_errors(file), file.open("a", encoding="utf-8") as opened:
            for place, completion in complete(
                model,
                self.tokenizer,
                [self.prompts[row] for row in rows],
                stop_ids=self.stops,
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
            ):
                line = json.dumps({"row": rows[place], **asdict(completion)})
                opened.write(f"\n{line}")  # the break comes first, and so ends a line that was cut off by a kill
                opened.flush()
                told(1)

    def completed(self, name: str) -> list[Completion]:
        """The completions of a model, in the order of the rows, once all processes are done."""
        done = _kept(self.files[name])
        return [done[row] for row in range(len(self.prompts))]


def plan_work(
    questions: Questions,
    identities: Mapping[str, str],
    *,
    max_new_tokens: int,
    batch_size: int,
    processes: int,
    folder: Path,
    say: Say,
) -> Work:
    """All completions that models have yet to make; what an evaluation of the same models has left is not made again.

    `identities` says of each model by its name which weights it has.
    """
    prompts = [row.ids for row in questions.rows]
    files, missing = {}, {}
    for name, identity in identities.items():
        asked = json.dumps([identity, prompts, questions.stops, max_new_tokens]).encode()
        files[name] = folder / PARTIAL / f"{name}-{hashlib.sha256(asked).hexdigest()[:16]}"
        done = _kept(files[name])
        missing[name] = [row for row in range(len(prompts)) if row not in done]
        if done:
            say.line(f"{name}: {len(done):,} of {len(prompts):,} completions are there already")
    with storage_errors(folder):
        (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
    most_batches = max((-(-len(rows) // batch_size) for rows in missing.values()), default=0)
    count = max(1, min(processes, most_batches))
    return Work(
        questions.tokenizer, prompts, questions.stops, max_new_tokens, batch_size, files, missing, processes=count
    )


def _of_process(file: Path, process: int) -> Path:
    return file.with_name(f"{file.name}.{process}.jsonl")


def _kept(file: Path) -> dict[int, Completion]:
    """What was done before, by any number of processes; a line that was cut off by a kill is made again."""
    done: dict[int, Completion] = {}
    for each in sorted(file.parent.glob(f"{file.name}.*.jsonl")):
        for line in each.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                content: dict[str, Any] = json.loads(line)
                row = int(content.pop("row"))
                done[row] = Completion(**content)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
    return done
