"""Runs of the trainer."""

from functools import partial
from pathlib import Path

import pytest

from tests.trainers.fed_runs import Train, train


@pytest.fixture
def trained(tiny_model: Path, tmp_path: Path) -> Train:
    """Trains the tiny model by the name of a folder, a feeding, and keys of `Shape`; gives its weights."""
    return partial(train, tmp_path, tiny_model)
