"""What the processes of `test_fed_ranks.py` do before they run: take a feed that CPUs are not given by themselves."""

from pathlib import Path
from typing import Any

from ftune.trainers import sft
from ftune.trainers.fed import Feeding
from ftune.trainers.sft import ReliableSFTTrainer


def cut_anew() -> None:
    """One micro-batch or two of each step, made ahead and read late; the passes of a step are written down."""
    made = Feeding(capacity=130, ahead=True, late=True)
    sft.feeding_of = lambda trainer, around, rows: made  # type: ignore[attr-defined]
    count_passes()


def count_passes() -> None:
    """Let each process write down how many micro-batches of a step have rows."""
    honest = ReliableSFTTrainer.get_batch_samples

    def telling(self: Any, *args: Any) -> Any:
        samples, items = honest(self, *args)
        with Path(f"passes.{self.ranks.rank}").open("a") as file:
            print(sum(bool(sample) for sample in samples), "of", len(samples), file=file)
        return samples, items

    ReliableSFTTrainer.get_batch_samples = telling  # type: ignore[method-assign]
