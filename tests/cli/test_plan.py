"""`ftune plan` at the command line: what it prints, what it refuses, and what it writes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftune.recipes.load import load_recipe
from ftune.recipes.runs.plan_gpu import COMMON
from tests.conftest import Done

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
BY_HAND = ["--params=8B", "--layers=32", "--hidden=4096", "--heads=32", "--kv-heads=8", "--ffn=14336", "--vocab=128256"]

Write = Callable[..., Path]
Ftune = Callable[..., Done]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a recipe of an 8B model of which only the configuration is there, on a machine without GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "8b").mkdir()

    def write(config: dict[str, Any] | None = None, **sections: Any) -> Path:
        (tmp_path / "8b" / "config.json").write_text(json.dumps(LLAMA_8B if config is None else config))
        base: dict[str, Any] = {
            "type": "sft",
            "model": {"path": "8b"},
            "data": {"train": "elsewhere.jsonl", "max_length": 1024},
            "batch": {"micro_batch_size": 8, "global_batch_size": 16},
        }
        path = tmp_path / "r.yaml"
        path.write_text(yaml.safe_dump(base | sections))
        return path

    return write


def found(done: Done) -> dict[str, Any]:
    """The one object that `--json` prints."""
    assert done.code == 0, done.err
    content: dict[str, Any] = json.loads(done.out)
    return content


def test_the_parts_add_up(ftune: Ftune, write: Write) -> None:
    plan = found(ftune("plan", write(), "--gpu", "h100", "--json"))
    assert plan["model"]["parameters"] == 8_030_261_248
    assert sum(plan["parts"].values()) == plan["peak"] == max(plan["phases"].values())
    assert plan["total"] == plan["peak"] + plan["reserved"]
    assert plan["gpu"]["margin"] == plan["gpu"]["usable"] - plan["total"]
    assert plan["gpu"]["fits"] == (plan["gpu"]["margin"] >= 0)


def test_a_model_by_hand_is_the_one_from_its_configuration(ftune: Ftune, write: Write) -> None:
    of_config = found(ftune("plan", write(), "--gpu", "h100", "--json"))
    by_hand = found(ftune("plan", write({}), "--gpu", "h100", "--json", *BY_HAND))
    assert by_hand["parts"] == of_config["parts"]
    said = ftune("plan", write(), "--gpu", "h100", *BY_HAND).out.splitlines()[1]
    assert said == "sft: lora on a model of 8.03B parameters, given by hand, of which 41.9M train"


def test_without_a_gpu_common_ones_are_judged(ftune: Ftune, write: Write) -> None:
    done = ftune("plan", write())
    assert done.code == 0
    table = done.out[done.out.index("verdict") :].splitlines()[1:]
    assert len(table) == len(COMMON)
    assert "too small" in table[0]  # 24 GB
    assert "fits" in table[-1]  # 192 GB


@pytest.mark.parametrize("batch", [{}, {"micro_batch_size": "auto", "activation_checkpointing": "auto"}])
def test_each_of_them_is_judged_as_if_it_had_been_named(ftune: Ftune, write: Write, batch: dict[str, str]) -> None:
    path = write(peft="full", optim={"optimizer": "sgd"}, batch={"global_batch_size": 16} | batch)
    several = {gpu["name"]: gpu for gpu in found(ftune("plan", path, "--json"))["gpus"]}
    for name in ("rtx4090", "mi300x"):
        alone = found(ftune("plan", path, "--json", "--gpu", name))["gpu"]
        assert several[alone["name"]] == alone


def test_eighty_columns(ftune: Ftune, write: Write) -> None:
    ppo = {
        "type": "ppo",
        "rewards": [{"type": "length", "max": 9}],
        "batch": None,
        "data": {"train": "elsewhere.jsonl"},
    }
    for path, words in (
        (write(), []),
        (write(peft="full", backend={"type": "zero", "offload": {"optimizer": "cpu"}}), ["--num-gpus", 2]),
        (write(peft="full"), ["--gpu", "rtx4090", "--price", 2.5, "--fit"]),
    ):
        done = ftune("plan", path, *words)
        assert done.code == 0, done.err
        assert max(len(line) for line in done.out.splitlines() if "=" not in line) <= 80, done.out
    path = write(**ppo)
    path.write_text(yaml.safe_dump({key: value for key, value in yaml.safe_load(path.read_text()).items() if value}))
    done = ftune("plan", path, "--gpu", "h100")
    assert done.code == 0, done.err
    assert "200 iterations" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_what_is_offloaded_is_told_where_it_lies(ftune: Ftune, write: Write) -> None:
    places = {"optimizer": "cpu", "parameters": "nvme", "nvme_path": "/drive"}
    path = write(peft="full", backend={"type": "zero", "stage": 3, "offload": places})
    done = ftune("plan", path, "--num-gpus", 2, "--gpu", "h100")
    assert done.code == 0, done.err
    assert "\nmemory of the CPU, each GPU" in done.out
    assert "\nNVMe drive, each GPU" in done.out
    plan = found(ftune("plan", path, "--num-gpus", 2, "--json"))
    assert plan["processes"] == 2
    assert sum(plan["host"].values()) > 0
    assert sum(plan["disk"].values()) == 8_030_261_248  # half of the weights in bf16


@pytest.mark.parametrize(
    ("sections", "words", "said"),
    [
        ({}, ["--gpu", "h10"], r"--gpu: no GPU 'h10' in the catalogue; did you mean 'h100'\?; known: h100"),
        ({}, ["--gpu", "24 GiB of it"], "--gpu"),
        ({}, ["--num-gpus", "0"], "--num-gpus: 0; a run has at least one"),
        ({}, ["--nodes", "-1"], "--nodes: -1"),
        ({"backend": {"type": "zero"}}, ["--num-gpus", "0"], "--num-gpus: 0"),
        (
            {},
            ["--num-gpus", "3"],
            "batch.global_batch_size: 16 rows .* 3 processes of 8 rows .* set batch.global_batch_size=24",
        ),
        ({"backend": "single"}, ["--num-gpus", "2"], "'single' is one process"),
        ({"backend": {"device": "cpu"}}, ["--num-gpus", "2"], "backend.device: 'cpu'"),
        ({"config": {"model_type": "llama"}}, [], "8b: config.json: a 'llama' config needs hidden_size"),
        ({"config": {"model_type": "lama"}}, [], "'lama' is not one whose shape is known; did you mean 'llama'"),
        ({"model": {"path": "./none"}}, [], "no such file or folder './none'"),
        ({"peft": {"type": "lora", "target_modules": ["qproj"]}}, [], "qproj"),
        ({"batch": {"micro_batch_size": "auto"}}, [], "batch.*'global_batch_size'"),
        ({}, ["--layers", "2"], "--layers: a model by hand needs .*--params"),
        ({}, ["--params", "many"], "--params: 'many' is no number"),
        ({}, ["--params", "7B", "--heads", "0"], "--heads: 0"),
        ({}, ["--params", "9" * 400], "--params: '9999"),
        ({}, ["--params", "7B", "--layers", "1000000000"], "."),
        ({"config": LLAMA_8B | {"num_hidden_layers": 10**9}}, [], "1,000,000,000 decoder layers is not planned"),
        ({"config": LLAMA_8B | {"hidden_size": "wide"}}, [], "hidden_size should be a whole number"),
        ({}, ["--price", "-1"], "--price: -1"),
        ({}, ["--price", "nan"], "--price: nan"),
        ({}, ["--gpu", ""], "--gpu"),
        ({}, ["--fit"], "--fit: into what"),
        ({}, ["--gpu", "h100", "--fit", "--write", "r.yaml"], "r.yaml is there already"),
        ({}, ["--gpu", "1GiB", "--fit", "--write", "new.yaml"], "not written"),
        ({"type": "eval"}, [], "eval"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(ftune: Ftune, write: Write, sections: dict[str, Any], words: list[str], said: str) -> None:
    path = write(**sections)
    if sections.get("type") == "eval":
        path.write_text("type: eval\nmodel: 8b\n")
    done = ftune("plan", path, *words)
    assert done.code == 2, done.out
    assert done.out == ""
    assert re.search(said, done.err), done.err
    assert "Traceback" not in done.err


def test_no_recipe(ftune: Ftune) -> None:
    done = ftune("plan")
    assert done.code == 2
    assert "ftune plan RECIPE" in done.err


def test_what_makes_it_fit_is_written_as_a_recipe_that_fits(ftune: Ftune, write: Write, tmp_path: Path) -> None:
    path = write(peft="full", optim={"learning_rate": 1e-5})
    before = found(ftune("plan", path, "seed=7", "--gpu", "rtx4090", "--json"))
    assert not before["gpu"]["fits"]
    done = ftune("plan", path, "seed=7", "--gpu", "rtx4090", "--fit", "--write", "new/fits.yaml")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "wrote new/fits.yaml"
    after = found(ftune("plan", "new/fits.yaml", "--gpu", "rtx4090", "--json"))
    assert after["gpu"]["fits"]
    written: Any = load_recipe("sft", tmp_path / "new" / "fits.yaml", elsewhere=("data",)).recipe
    assert written.seed == 7
    assert yaml.safe_load(Path("new/fits.yaml").read_text())["extends"] == "../r.yaml"
    assert written.batch.global_batch_size == 16
    pasted = done.out.splitlines()[-3].split()
    assert found(ftune("plan", path, "seed=7", *pasted, "--gpu", "rtx4090", "--json"))["total"] == after["total"]


def test_a_dry_run_prints_the_plan(ftune: Ftune, write: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.jsonl").write_text('{"text": "a"}\n')
    done = ftune("sft", write(), "--dry-run")
    assert done.code == 0, done.err
    assert "\npeak (" in done.out
    unknown = ftune("sft", write({"model_type": "mamba"}), "--dry-run")
    assert unknown.code == 0
    assert unknown.out.splitlines()[-1].startswith("memory is not predicted: 8b: config.json: model_type 'mamba'")


def test_torch_is_not_imported(write: Write, tmp_path: Path) -> None:
    program = (
        "import sys, time; from ftune.cli.main import main; sys.argv[0] = 'ftune'\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'transformers', 'peft', 'numpy', 'ftune.recipes.ppo')"
        " if name in sys.modules], f'{time.process_time():.2f} s of CPU', file=sys.stderr)"
    )
    words = ["plan", str(write(peft="full")), "--gpu", "rtx4090", "--fit"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert "fits then" in done.stdout
    assert done.stderr.startswith("[] ")
    print("ftune plan --fit:", done.stderr.removeprefix("[] "))


def test_published_numbers(ftune: Ftune) -> None:
    done = ftune("plan", "--table")
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    lines = [line.split() for line in done.out.splitlines()]
    assert ["the", "same,", "ZeRO-3", "1.9", "1.9"] in lines
    assert {each["source"] for each in json.loads(ftune("plan", "--table", "--json").out)} >= {"arXiv:2305.14314"}
