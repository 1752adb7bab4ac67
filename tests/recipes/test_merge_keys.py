"""Every key that a recipe of `ftune merge` accepts does something."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ftune.recipes.base import RunOptions
from ftune.recipes.merge import MergeRecipe, bytes_in
from tests.conftest import Done
from tests.ppo_inputs import write_adapter
from tests.recipes.test_keys import keys_of

Run = Callable[..., Done]

HERE = {
    "sources.path", "sources.weight", "base", "output", "dtype", "max_shard_size", "verify.rows", "verify.max_length",
    "verify.max_new_tokens", "verify.device", "push.repo", "push.private", "gguf", "quantize.type", "quantize.rows",
    "revision", "trust_remote_code",
}  # fmt: skip
ELSEWHERE = {
    "extends", "type",  # tests/recipes/test_load.py
    "seed", "save",  # tests/merge/test_several.py
    "combine.type", "combine.density", "combine.scale", "combine.rank",  # tests/merge/test_combine.py
    "base_weights",  # tests/merge/test_qlora.py
}  # fmt: skip


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that changes something."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("keys")
    write_adapter(tiny_model, folder)
    file = folder / "adapter/adapter_model.safetensors"
    save_file({name: value + 0.05 for name, value in load_file(file).items()}, file)
    return folder / "adapter"


@pytest.fixture
def merge(adapter: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Merges with these keys into `tmp_path / "merged"`; gives what was said."""

    def merged(**keys: Any) -> str:
        settings = {"sources": str(adapter), "base": str(tiny_model), "output": str(tmp_path / "merged")}
        recipe = MergeRecipe.model_validate(settings | {"verify": None} | keys)
        recipe.execute(RunOptions("", "ftune merge", overwrite=True))
        return capsys.readouterr().err

    return merged


def weights(folder: Path) -> dict[str, Any]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def test_no_key_is_without_a_case() -> None:
    assert sorted(set(keys_of(MergeRecipe)) - HERE - ELSEWHERE) == []
    assert set(keys_of(MergeRecipe)) >= HERE


def test_weight_scales_the_update(merge: Callable[..., str], adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    base = weights(tiny_model)
    merge()
    whole = weights(tmp_path / "merged")
    merge(sources=[{"path": str(adapter), "weight": -0.5}])
    name = "model.layers.1.mlp.up_proj.weight"
    halved = weights(tmp_path / "merged")[name] - base[name]
    assert (whole[name] - base[name]).abs().max() > 1e-2
    assert (halved + 0.5 * (whole[name] - base[name])).abs().max() < 1e-6


def test_verify_says_on_how_much_it_stands(merge: Callable[..., str]) -> None:
    assert "was not compared" in merge()
    said = merge(verify={"rows": 3, "max_length": 9, "max_new_tokens": 2, "device": "cpu"})
    assert "3 of 3 greedy completions are the same (short texts)" in said


def test_rows_of_the_proof_are_cut(merge: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    from ftune.recipes.runs import merge_rows

    ids = merge_rows.Rows.ids

    def watched(rows: Any, count: int, max_length: int) -> list[list[int]]:
        found = ids(rows, count, max_length)
        seen.extend(found)
        return found

    monkeypatch.setattr(merge_rows.Rows, "ids", watched)
    merge(verify={"rows": 2, "max_length": 5, "max_new_tokens": 0})
    assert {len(row) for row in seen} == {5}


def test_no_completions_are_made_unasked(merge: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftune.merge.engines.compared.greedy", None)  # whoever calls it fails
    assert "ok: computes" in merge(verify={"rows": 1, "max_new_tokens": 0})


@pytest.mark.parametrize(("size", "count"), [("5GB", 5 * 10**9), ("500MiB", 500 * 2**20), ("1.5 kb", 1500), ("77", 77)])
def test_sizes_in_words(size: str, count: int) -> None:
    assert bytes_in(size) == count


@pytest.mark.parametrize("size", ["", "GB", "-1GB", "5 XB", "0"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        bytes_in(size)


def test_exports_lie_beside_the_model(merge: Callable[..., str], tmp_path: Path) -> None:
    said = merge(gguf="f16", quantize={"type": "int8", "rows": 0})
    assert (tmp_path / f"gguf/{tmp_path.name}-f16.gguf").is_file()
    assert json.loads((tmp_path / "merged-int8/config.json").read_text())["quantization_config"]["load_in_8bit"]
    assert "perplexity" not in said


def test_push_gets_name_and_visibility(
    merge: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[Any] = []

    def push(folder: Path, repo: str, *, private: bool, say: Any) -> str:
        pushed.append((folder, repo, private))
        return "https://hub/me/it"

    monkeypatch.setattr("ftune.models.push.push_folder", push)
    merge(push="me/it")
    merge(push={"repo": "me/it", "private": False})
    assert pushed == [(tmp_path / "merged", "me/it", True), (tmp_path / "merged", "me/it", False)]


def test_revision_and_remote_code_reach_the_base(
    merge: Callable[..., str], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftune.models import load

    asked: list[tuple[Any, Any]] = []
    load_config = load.load_config

    def watched(path: str, **options: Any) -> Any:
        asked.append((options["revision"], options["trust_remote_code"]))
        return load_config(path, **options)

    monkeypatch.setattr("ftune.models.load.load_config", watched)
    merge(revision="abc", trust_remote_code=True)
    assert asked == [("abc", True)]


def test_the_words_of_the_command_line_are_keys(ftune: Run, adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    words = ["--base", tiny_model, "--output", tmp_path / "m", "--dtype", "bf16", "--max-shard-size", "1MB"]
    more = ["--quantize", "nf4", "--gguf", "q8_0", "--push", "me/it", "--no-verify", "seed=3"]
    done = ftune("merge", adapter, *words, *more, "--dry-run")
    assert done.code == 0, done.err
    wanted = {
        "base": str(tiny_model), "output": str(tmp_path / "m"), "dtype": "bf16", "max_shard_size": "1MB",
        "gguf": "q8_0",
        "quantize.type": "nf4", "push.repo": "me/it", "verify": None, "seed": 3, "sources[0].path": str(adapter),
    }  # fmt: skip
    lines = dict(line.rpartition("#")[0].strip().split(": ", 1) for line in done.out.splitlines())
    assert {key: json.loads(lines[key]) for key in wanted} == wanted
