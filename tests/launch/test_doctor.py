"""What `ftune doctor` says about a recipe on a machine, and about a machine as a whole."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftune.launch.doctor import needs, probe
from ftune.launch.doctor.checkup import examine, start
from ftune.launch.doctor.finding import Finding, ok, size, warning, without_names
from ftune.launch.doctor.show import as_json
from tests.conftest import Done
from tests.launch.findings import CUDA, H100, levels


def test_what_a_recipe_needs() -> None:
    asked = needs.of_values(
        {
            "output_dir": "out",
            "backend": {"type": "zero", "device": "auto", "offload": {"optimizer": "nvme", "parameters": "none"}},
            "model": {"dtype": "bf16", "attention": "eager", "quantization": {"type": "none"}},
            "optim": {"optimizer": "adamw_8bit"},
        }
    )
    assert asked.output == Path("out")
    assert asked.bitsandbytes == "optim.optimizer: adamw_8bit"
    assert asked.deepspeed_ops == {
        "cpu_adam": "backend.offload.optimizer: nvme",
        "async_io": "backend.offload.optimizer: nvme",
    }
    assert needs.of_values({"backend": {"type": "ddp"}}).deepspeed_ops == {}


@pytest.mark.parametrize(
    ("asked", "there", "level", "said"),
    [
        (needs.Needs(backend="ddp", processes=8), [H100], "error", "this machine has 1 GPU"),
        (needs.Needs(backend="ddp", processes=2), [H100, H100], "ok", "2 processes a node, 1 node, on GPUs"),
        (needs.Needs(backend="ddp", processes=8, device="cpu"), [H100], "ok", "8 processes a node, 1 node, on the CPU"),
        (needs.Needs(device="cuda"), [], "error", "no GPU can be used"),
        (needs.Needs(backend="zero"), [H100], "error", "DeepSpeed is not installed"),
        (needs.Needs(dtype="fp16"), [], "error", "fp16"),
        (needs.Needs(dtype="bf16"), [{**H100, "capability": [7, 5]}], "warning", "slowly"),
    ],
)
def test_a_recipe_on_a_machine(asked: needs.Needs, there: list[dict[str, object]], level: str, said: str) -> None:
    found = list(needs.judge(asked, there, has_deepspeed=False))
    assert found[-1].level == level
    assert said in found[-1].text


def test_one_check_neither_ends_nor_delays_the_others() -> None:
    def broken() -> Iterator[Finding]:
        yield ok("broken", "so far")
        raise ZeroDivisionError("division by zero\nand more")

    def hanging() -> Iterator[Finding]:
        time.sleep(30)
        yield ok("hanging", "too late")

    begun = time.monotonic()
    checks = {"broken": broken, "hanging": hanging, "fine": lambda: [ok("fine", "here")]}
    found = start(checks, limit_s=0.2)()
    assert time.monotonic() - begun < 5
    assert [(one.level, one.area) for one in found] == [("warning", "broken"), ("warning", "hanging"), ("ok", "fine")]
    assert found[0].text == "the check itself failed: ZeroDivisionError: division by zero"
    assert found[1].text == "the check did not end within 0.2 s"


def test_a_report_names_nobody() -> None:
    text = "/home/ann/.cache/x, /scratch/ann/runs and /home/anna"
    assert without_names(text, home="/home/ann", user="ann") == "~/.cache/x, /scratch/$USER/runs and /home/anna"
    shown = json.loads(as_json([warning("disk", f"{Path.home()}/x", f"rm {Path.home()}/x")]))
    assert shown == {
        "errors": 0,
        "warnings": 1,
        "findings": [{"level": "warning", "area": "disk", "found": "~/x", "remedy": "rm ~/x"}],
    }


@pytest.mark.parametrize(("count", "words"), [(64 * 2**20, "64 MiB"), (1536 * 2**20, "1.5 GiB"), (512, "512 bytes")])
def test_sizes_in_words(count: int, words: str) -> None:
    assert size(count) == words


def write_recipe(folder: Path, peft: str) -> Path:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "rows.jsonl").write_text('{"text": "a"}\n')
    path = folder / "mine.yaml"
    path.write_text(f"model: {{path: {folder}}}\ndata: {{train: {folder}/rows.jsonl}}\npeft: {peft}\n")
    return path


def test_a_machine_as_a_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight GPUs of which torch tells, though they are not here."""
    answers = {"ended": "", "torch": CUDA, "gpus": [H100] * 8, "bitsandbytes": None, "flash_attn": None}
    monkeypatch.setattr(probe, "ask", lambda: answers)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = examine(write_recipe(tmp_path, "{type: lora}"))
    assert [one.text for one in found if one.area == "gpu"][7] == (
        "GPU 7: NVIDIA H100, 80 GiB, compute capability 9.0, 79 GiB free"
    )
    areas = {one.area for one in found}
    assert {"recipe", "torch", "packages", "disk", "shm", "ports", "launcher", "hub", "locale", "limits"} <= areas
    assert not [one for one in found if "the check itself failed" in one.text]
    assert any(one.text.endswith("1 process a node, 1 node, on GPUs") for one in found)
    assert "hf_secret" not in as_json(found)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"ended": "", "torch": {"failed": "ImportError: libcudart"}}, "torch cannot be used: ImportError: libcudart"),
        ({"ended": "the process that looks at torch ended with signal 11"}, "ended with signal 11"),
    ],
)
def test_a_broken_torch_is_one_error(monkeypatch: pytest.MonkeyPatch, answers: dict[str, object], said: str) -> None:
    """What rests on torch is not guessed at, and the rest is still looked at."""
    monkeypatch.setattr(probe, "ask", lambda: answers)
    found = examine(None)
    assert [one.level for one in found if said in one.text] == ["error"]
    assert not {"gpu", "attention", "bitsandbytes"} & {one.area for one in found}
    assert "disk" in {one.area for one in found}


def test_the_faults_of_a_recipe_are_findings(tmp_path: Path) -> None:
    asked, found = needs.read(write_recipe(tmp_path, "{type: lora, rnk: 4}"))
    assert asked == needs.Needs()
    assert levels(found) == ["error"]
    assert "did you mean 'rank'" in found[0].text
    assert levels(needs.read(tmp_path / "none.yaml")[1]) == ["error"]


def test_a_probe_that_dies_still_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered before the crash is kept, and the crash is told."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '{\"torch\": 1}'\necho 'Fatal: driver' >&2\nkill -SEGV $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    answers = probe.ask()
    assert answers["torch"] == 1
    assert "signal 11" in answers["ended"]
    python.write_text("#!/bin/sh\necho '{\"torch\": 1}'\nexec sleep 30\n")
    answers = probe.ask(limit_s=0.3)
    assert answers == {"torch": 1, "ended": "torch or the GPU driver gave no answer within 0.3 s"}


@pytest.mark.slow
def test_the_program_examines_this_machine(ftune: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    done = ftune("doctor", "--json")
    report = json.loads(done.out)
    assert done.code == (1 if report["errors"] else 0)
    texts = [one["found"] for one in report["findings"]]
    assert any(text.startswith("torch 2.") for text in texts)
    assert os.environ.get("HF_TOKEN", "no token") not in done.out
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    broken = ftune("doctor")
    assert broken.code == 1
    assert "temporary files /no/such/folder: cannot be written" in broken.out
