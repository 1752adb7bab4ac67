"""State of training goes through a checkpoint's files bit for bit, for any optimiser and any number of writers."""

import json
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ftune.core.errors import CheckpointError, StorageError
from ftune.trainers.adamw_bf16 import AdamWBf16
from ftune.trainers.checkpoint_state import STATE, Beside, load_state, save_state
from ftune.trainers.torch_state import TorchState
from ftune.trainers.trained_state import TrainedState

Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def adafactor(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    from transformers import Adafactor

    return Adafactor(groups, relative_step=False, lr=0.01)  # type: ignore[no-any-return]


def adamw_8bit(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    optim = pytest.importorskip("bitsandbytes.optim")
    return optim.AdamW8bit(groups, lr=0.01, min_8bit_size=64)  # type: ignore[no-any-return]


OPTIMIZERS: dict[str, Make] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01),
    "fused": lambda groups: torch.optim.AdamW(groups, lr=0.01, fused=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
    "plain sgd": lambda groups: torch.optim.SGD(groups, lr=0.01),
    "adafactor": adafactor,
    "adamw 8 bit": adamw_8bit,
    "adamw bf16": lambda groups: AdamWBf16(groups, lr=0.01),
}


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.nn.Sequential:
    """A part that trains, one that does not, and one that gets no gradient."""
    torch.manual_seed(seed)
    made = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.Linear(24, 12), torch.nn.Linear(12, 3))
    made[1].requires_grad_(False)
    return made.to(dtype)


def groups(made: torch.nn.Module) -> list[dict[str, Any]]:
    """Two, in another order than the model's."""
    named = dict(made.named_parameters())
    weights = [named[name] for name in ("2.weight", "0.weight")]
    return [{"params": weights, "weight_decay": 0.1}, {"params": [named["0.bias"], named["2.bias"]], "lr": 0.5}]


def steps(made: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int, count: int = 3) -> None:
    torch.manual_seed(seed)
    for _ in range(count):
        made[1](made[0](torch.randn(4, 12, dtype=made[0].weight.dtype))).square().mean().backward()  # type: ignore[index]
        optimizer.step()
        optimizer.zero_grad()


def bits(state: TrainedState) -> dict[str, Any]:
    found: dict[str, Any] = {"scalars": json.dumps(state.scalars(), sort_keys=True)}
    for name in state.names():
        tensors = {"weight": state.weight(name), **state.optimizer(name)}
        found |= {f"{name} {key}": (value.dtype, value.clone()) for key, value in tensors.items()}
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        value == other[key] if key == "scalars" else value[0] == other[key][0] and torch.equal(value[1], other[key][1])
        for key, value in one.items()
    )


def save(state: TrainedState, folder: Path, count: int = 1, **more: Any) -> None:
    """What `count` ranks would write, one after the other."""
    folder.mkdir(exist_ok=True)
    for rank in range(count):
        save_state(state, folder, **{"rank": rank, "count": count, "beside": Beside(), **more})


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_run_goes_on_as_if_it_had_never_stopped(kind: str, tmp_path: Path) -> None:
    dtype = torch.bfloat16 if kind == "adamw bf16" else torch.float32
    first = model(dtype=dtype)
    optimizer = OPTIMIZERS[kind](groups(first))
    steps(first, optimizer, seed=1)
    save(TorchState(first, optimizer), tmp_path)
    second = model(seed=9, dtype=dtype)
    second[1].load_state_dict(first[1].state_dict())
    other = OPTIMIZERS[kind](groups(second))
    for group in other.param_groups:
        group["lr"] = 77.0
    load_state(TorchState(second, other), tmp_path)
    assert same(bits(TorchState(first, optimizer)), bits(TorchState(second, other)))
    steps(first, optimizer, seed=2)
    steps(second, other, seed=2)
    assert same(bits(TorchState(first, optimizer)), bits(TorchState(second, other)))
    assert not torch.equal(first[0].weight, model(dtype=dtype)[0].weight)


class Tensors(TrainedState):
    """Any tensors."""

    def __init__(self, weights: dict[str, torch.Tensor], kept: dict[str, dict[str, torch.Tensor]]) -> None:
        self.weights, self.kept, self.put = weights, kept, {"weights": {}, "kept": {}}  # type: ignore[var-annotated]

    def names(self) -> list[str]:
        """Its names."""
        return list(self.weights)

    def weight(self, name: str) -> torch.Tensor:
        """One of them."""
        return self.weights[name]

    def optimizer(self, name: str) -> dict[str, torch.Tensor]:
        """What is kept of it."""
        return self.kept.get(name, {})

    def put_weight(self, name: str, value: torch.Tensor) -> None:
        """Remember it."""
        self.put["weights"][name] = value

    def put_optimizer(self, name: str, values: dict[str, torch.Tensor]) -> None:
        """Remember it."""
        self.put["kept"][name] = values

    def scalars(self) -> dict[str, Any]:
        """A number that has no short decimal."""
        return {"rate": 0.1 + 0.2}

    def put_scalars(self, values: dict[str, Any]) -> None:
        """They are as they were."""
        assert values == self.scalars()


shapes = st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=12)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.bool])


@settings(max_examples=25, deadline=None)
@given(shapes, st.lists(dtypes, min_size=12, max_size=12), st.integers(1, 5), st.integers(1, 600), st.booleans())
def test_all_writers_together_write_every_tensor_once(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    kinds: list[torch.dtype],
    count: int,
    file_bytes: int,
    whole_model: bool,
) -> None:
    folder = tmp_path_factory.mktemp("state")
    made = {
        f"p.{i}/x": (torch.randn(size) * 9).to(kind) for i, (size, kind) in enumerate(zip(sizes, kinds, strict=False))
    }
    shared = torch.arange(256)
    kept = {name: {"map": shared, "view": shared[:100].view(10, 10).T} for name in list(made)[::2]}
    buffers = {"table": torch.ones(3)} if whole_model else None
    beside = Beside({"schedule": {"last": 3, "rates": [1e-5]}}, {"importance": torch.rand(5)})
    state = Tensors(made, kept)
    save(state, folder, count, beside=beside, buffers=buffers, file_bytes=file_bytes)
    back = load_state(state, folder)
    assert back.facts == beside.facts
    assert torch.equal(back.tensors["importance"], beside.tensors["importance"])
    assert state.put["kept"].keys() == made.keys()
    for name, value in made.items():
        assert state.put["weights"][name].dtype == value.dtype
        assert torch.equal(state.put["weights"][name], value)
        for key, tensor in kept.get(name, {}).items():
            assert torch.equal(state.put["kept"][name][key], tensor)
    written = [key for file in folder.rglob("*.safetensors") for key in load_file(file)]
    assert len(written) == len(set(written)) == len(made) + 2 * len(kept) + 1 + bool(whole_model)
    for file in folder.rglob("*.safetensors"):
        inside = load_file(file)
        assert len(inside) == 1 or sum(value.nbytes for value in inside.values()) <= file_bytes


def test_writers_share_the_work(tmp_path: Path) -> None:
    save(Tensors({f"p{i}": torch.zeros(100) for i in range(40)}, {}), tmp_path, count=4)
    sizes = [sum(value.nbytes for value in load_file(file).values()) for file in tmp_path.rglob("*.safetensors")]
    assert sizes == [4000, 4000, 4000, 4000]


def test_a_model_that_trains_as_a_whole_can_be_loaded_from_its_checkpoint(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from ftune.trainers.resumable import describe, whole_model_buffers
    from tests.ppo.models import llama

    exact = llama(tie_word_embeddings=True).float().requires_grad_(True)
    describe(exact, tmp_path, "float32")
    save(TorchState(exact), tmp_path, count=2, buffers=whole_model_buffers(exact), file_bytes=9000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = AutoModelForCausalLM.from_pretrained(str(tmp_path))
    assert same(bits(TorchState(loaded)), bits(TorchState(exact)))


def test_a_checkpoint_of_other_parameters_is_refused_by_name(tmp_path: Path) -> None:
    made = model()
    save(TorchState(made), tmp_path)
    made[1].requires_grad_(True)
    with pytest.raises(CheckpointError, match=r"at 2 parameters: '1\.bias' is not in the checkpoint"):
        load_state(TorchState(made), tmp_path)
    made.requires_grad_(False)[0].requires_grad_(True)
    with pytest.raises(CheckpointError, match=r"at 2 parameters: '2\.bias' does not train now"):
        load_state(TorchState(made), tmp_path)
    made = model()
    made[2] = torch.nn.Linear(12, 4)
    with pytest.raises(CheckpointError, match=r"'2\.weight' has shape \(3, 12\), that of the model \(4, 12\)"):
        load_state(TorchState(made), tmp_path)


def test_files_that_are_not_whole_are_refused_by_name(tmp_path: Path) -> None:
    state = TorchState(model())
    save(state, tmp_path)
    file = tmp_path / "state/tensors-00001.safetensors"
    tensors = load_file(file)
    save_file({key: value for key, value in tensors.items() if key != "weights/2.bias"}, file)
    with pytest.raises(CheckpointError, match=r"tensors-00001.safetensors: 'weights/2\.bias' cannot be read"):
        load_state(state, tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"tensors-00001.safetensors: 'weights/0\.weight' cannot be read"):
        load_state(state, tmp_path)
    (tmp_path / STATE).write_text("{}")
    with pytest.raises(CheckpointError, match="format None; this ftune reads format 1"):
        load_state(state, tmp_path)
    (tmp_path / STATE).write_text("{")
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        load_state(state, tmp_path)


def test_an_optimiser_that_keeps_more_than_tensors_and_numbers_is_refused(tmp_path: Path) -> None:
    made = model()
    optimizer = torch.optim.SGD(made[0].parameters(), lr=0.1)
    optimizer.param_groups[0]["closure"] = print
    with pytest.raises(CheckpointError, match="'closure' is a builtin_function_or_method"):
        save(TorchState(made[0], optimizer), tmp_path)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_rank_that_cannot_write_goes_through_all_tensors_with_the_others(tmp_path: Path) -> None:
    asked = []

    class Watched(Tensors):
        def weight(self, name: str) -> torch.Tensor:
            asked.append(name)
            return super().weight(name)

    made = {f"p{i}": torch.zeros(1000) for i in range(9)}
    with largest_file(2000), pytest.raises(StorageError, match="File too large"):
        save(Watched(made, {}), tmp_path, file_bytes=5000)
    assert asked == list(made)
