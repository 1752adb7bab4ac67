"""What every backend promises."""

import pytest

from ftune.backends.base import Backend
from ftune.core.variants import variants_of

BACKENDS = variants_of(Backend)


@pytest.mark.parametrize("name", BACKENDS)
def test_its_arguments_are_those_of_training_arguments(name: str) -> None:
    from transformers import TrainingArguments

    args = BACKENDS[name](type=name).training_args()  # type: ignore[attr-defined]
    assert TrainingArguments(output_dir="unused", **args)
