"""Methods that decompose the base are the same with any number of threads; FRoD's result is whole on other machines."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ftune.peft.adapters import load_adapter
from ftune.peft.decomposed import DECOMPOSED
from ftune.peft.library import LibraryMethod
from tests.conftest import Done
from tests.contract.library_cases import MISSING
from tests.ppo.models import VOCABULARY, llama

IDS_BS = torch.arange(20)[None] % VOCABULARY


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def made(name: str, threads: int) -> Any:
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    # wide enough for LAPACK to share the work between threads
    return LibraryMethod.model_validate({"type": name}).wrap(llama(hidden_size=128, intermediate_size=256)).eval()


def tensors(model: Any) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS_BS).logits
    return found


def trained(model: Any) -> Any:
    """The model after a change of all that trains."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.01 * torch.randn(value.shape, generator=draw)
    return model


@pytest.mark.parametrize("name", sorted(name.lower() for name in DECOMPOSED))
def test_threads_change_nothing(name: str, tmp_path: Path) -> None:
    if name in MISSING:
        pytest.skip(f"{name} needs a package that is not installed")
    one = trained(made(name, 1))
    two = trained(made(name, 2))
    assert torch.get_num_threads() == 2
    first, second = tensors(one), tensors(two)
    assert first.keys() == second.keys()
    assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []
    one.save_pretrained(str(tmp_path))
    loaded = load_adapter(llama(hidden_size=128, intermediate_size=256), tmp_path)
    assert torch.equal(logits(loaded), logits(two))


@pytest.fixture
def another_processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, FRoD finds other bases: equally good ones, with other signs and in another order."""
    import peft.tuners.frod.model as frod

    find = frod._projection_from_weights

    def other(*args: Any) -> Tensor:
        return -find(*args).flip(1)

    return lambda: monkeypatch.setattr(frod, "_projection_from_weights", other)


def test_frod_computes_the_same_where_bases_come_out_otherwise(
    another_processor: Callable[[], None], tmp_path: Path
) -> None:
    model = trained(made("frod", 2))
    model.save_pretrained(str(tmp_path))
    another_processor()
    loaded = load_adapter(llama(hidden_size=128, intermediate_size=256), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


def test_a_run_does_not_go_on_with_other_constants(
    another_processor: Callable[[], None],
    recipe: Callable[..., Path],
    ftune: Callable[..., Done],
    tmp_path: Path,
) -> None:
    path = recipe(peft={"type": "frod"}, schedule={"max_steps": 4})
    assert ftune("sft", path, "output_dir=run").code == 0
    for folder in ("checkpoint-4", "adapter"):  # as if it had been stopped
        shutil.rmtree(tmp_path / "run" / folder)
    (tmp_path / "run/ftune.json").write_text('{"state": "stopped"}', encoding="utf-8")
    shutil.copytree(tmp_path / "run", tmp_path / "elsewhere")
    assert ftune("sft", path, "output_dir=run", "--resume").code == 0
    another_processor()
    refused = ftune("sft", path, "output_dir=elsewhere", "--resume")
    assert refused.code == 2
    assert "elsewhere/checkpoint-2: the method computes 'base_model.frod_V." in refused.err
    assert "resume on a machine with that kind of processor" in refused.err
