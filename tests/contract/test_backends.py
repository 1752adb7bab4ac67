"""What every backend promises."""

from typing import Any

import pytest

from ftune.backends.base import Backend
from ftune.backends.shape import Shape
from ftune.core.variants import variants_of

BACKENDS = variants_of(Backend)


def made(name: str) -> Backend:
    given: Any = {"type": name}
    return BACKENDS[name](**given)


@pytest.mark.parametrize("name", BACKENDS)
def test_its_arguments_are_those_of_training_arguments(name: str) -> None:
    from transformers import TrainingArguments

    args: Any = made(name).training_args()
    assert TrainingArguments(output_dir="unused", **args)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_it_is_one_backend_with_processes_wherever_it_is(name: str, gpus: int) -> None:
    backend = made(name).resolve(None, {}, gpus)
    assert backend.name == (name if name != "auto" else "ddp" if gpus > 1 else "single")
    assert backend.resolve(None, {}, gpus) == backend
    assert backend.local_processes(gpus) == made(name).local_processes(gpus) == (1 if name == "single" else gpus or 1)


@pytest.mark.parametrize("name", BACKENDS)
def test_its_configuration_has_the_numbers_of_the_run(name: str) -> None:
    shape = Shape(1, 1, 2, 4, 0.5, "fp32", on_gpu=False)
    config = made(name).accelerate_config(shape)
    assert (config["num_processes"], config["num_machines"], config["use_cpu"]) == (1, 1, True)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_refusal_says_a_way_out(name: str) -> None:
    assert all("; use '" in reason for reason in made(name).limits().values())
