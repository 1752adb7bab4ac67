"""What ftune changes in transformers' Trainer, whatever it trains: saves, non-finite steps, counts, evaluation.

A mixin that goes before a trainer class: `class SftTrainer(ReliableTrainer, trl.SFTTrainer)`.
"""

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers.trainer import TRAINER_STATE_NAME

from ftune.backends.engines.sharding import is_split
from ftune.backends.ranks import Ranks
from ftune.core.checkpoints import commit, rotate, stage, staged, storage_errors
from ftune.core.errors import StorageError
from ftune.core.say import Say
from ftune.core.signals import SIGNALS
from ftune.report.events import EventLog
from ftune.trainers.method import Method
from ftune.trainers.order import EpochOrder, TellEpoch
from ftune.trainers.step_end import Counts, StepEndTrainer


class CountingCollator:
    """A collator whose batches also say which rows they hold and how many of their tokens are real and trained."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate `examples` and add the counts; `row` is an index or an origin, or a list of them."""
        batch = self.collate(examples)
        if "position" in examples[-1]:  # where a stream stands behind this batch
            batch["position"] = examples[-1]["position"]
        rows = [example["row"] for example in examples]
        batch["rows"] = [row for entry in rows for row in (entry if isinstance(entry, list) else [entry])]
        lengths = [length for example in examples for length in _lengths(example)]
        batch["tokens"], batch["squares"] = sum(lengths), sum(length * length for length in lengths)
        if "trained_tokens" not in batch:
            batch["trained_tokens"] = int((batch["labels"] != -100).sum())
        return batch


class ReliableTrainer(StepEndTrainer):
    """Staged and verified checkpoints, no update from a non-finite step, token counts, evaluation of its own.

    `prepare_reliability` connects it to a run right after construction. What a subclass trains, it says in
    `step_facts`, `held_out` and `held_out_words`.
    """

    data_collator: Any
    evaluation: dict[str, Any]
    """What the last evaluation found."""
    evaluated_at: int = -1
    """The step after which that was; -1 before the first."""

    def prepare_reliability(
        self,
        ranks: Ranks,
        events: EventLog,
        say: Say,
        facts: dict[str, object],
        origins: Sequence[str] | None,
        method: Method,
    ) -> None:
        """Connect the trainer to its run: where to write and say what happens, what a checkpoint's manifest tells.

        `origins` names the `file:line` of each row index; None where the rows of a batch are named by it already.
        `method` is what the PEFT method wants beside the optimiser's steps.
        """
        self.ranks, self.method = ranks, method
        self.events, self.say, self.facts, self.origins = events, say, facts, origins
        self.data_collator = CountingCollator(self.data_collator)
        self.prepare_steps()

    # -- counting ------------------------------------------------------------------------------------------------------

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in ("row", "position") if name not in self._signature_columns]

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if "rows" in inputs:
            rows, position = inputs.pop("rows"), inputs.pop("position", None)
            counts = Counts(inputs.pop("tokens"), inputs.pop("trained_tokens"), inputs.pop("squares"))
            if self.model.training:
                self._rows += rows
                self.facts |= {"stream": position} if position else {}
                self._counted = self._counted.plus(counts)
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """Rows in the order of `EpochOrder`, unless `trainer_args` ask for a strategy of transformers."""
        if self.args.train_sampling_strategy != "random" or isinstance(self.train_dataset, IterableDataset):
            return super()._get_train_sampler(*args, **kwargs)
        order = EpochOrder(len(self.train_dataset), self.args.data_seed)
        self.remove_callback(TellEpoch)
        self.add_callback(TellEpoch(order))
        return order

    def get_train_dataloader(self) -> Any:
        """A stream's loader draws its own seed from a generator of its own.

        torch 2.13 draws it from the global one when the loader is opened, which on a resume is after transformers has
        restored that one: dropout would differ from that of a run that never stopped.
        """
        loader = super().get_train_dataloader()
        if isinstance(loader.dataset, IterableDataset):
            loader.base_dataloader.generator = torch.Generator().manual_seed(self.args.seed)
        if self.args.dataloader_num_workers:
            loader.base_dataloader.worker_init_fn = partial(_leave_signals, loader.base_dataloader.worker_init_fn)
        return loader

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Upstream's, which counts all parameters anew for each micro-batch."""
        ids = inputs.get("input_ids")
        return 0 if ids is None else 6 * ids.numel() * self._weights

    @cached_property
    def _weights(self) -> int:
        count: int = self.model.num_parameters(exclude_embeddings=True)
        return count

    # -- several processes ---------------------------------------------------------------------------------------------

    def share_of(self, items: int) -> float:
        """What a step's loss is divided by here, so that it is the mean over the items of all processes.

        Gradients are averaged over the processes, of which each may have another number of items.
        """
        return self.ranks.sums([items])[0] / self.ranks.count

    def held_out_batches(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """The share of the held-out batches that this process looks at, and whether each of them counts.

        All processes have as many, since those that share a split model compute together; what makes up for a missing
        one does not count.
        """
        size, total = self.args.per_device_eval_batch_size, len(self.eval_dataset)
        batches = [list(range(start, min(start + size, total))) for start in range(0, total, size)]
        mine = batches[self.ranks.rank :: self.ranks.count]
        missing = -(-len(batches) // self.ranks.count) - len(mine)
        loader = DataLoader(
            self.eval_dataset,
            batch_sampler=mine + batches[:1] * missing,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            generator=torch.Generator(),  # draws no seed from the global one: a run that is stopped evaluates less
        )
        for number, batch in enumerate(loader):
            yield batch, number < len(mine)

    def _move_model_to_device(self, model: torch.nn.Module, device: torch.device) -> None:
        """A split model is where it has to be."""
        if not is_split(model):
            super()._move_model_to_device(model, device)

    # -- the PEFT method -----------------------------------------------------------------------------------------------

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Upstream's optimiser, its groups split where parameters have learning rates of their own."""
        made = self.optimizer is not None  # transformers asks twice where DeepSpeed is
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if made:
            return optimizer
        factors = {id(value): self.method.learning_rate_factor(name) for name, value in self.model.named_parameters()}
        groups: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            for factor in sorted({factors[id(value)] for value in group["params"]}):
                chosen = [value for value in group["params"] if factors[id(value)] == factor]
                groups.append({**group, "params": chosen, "lr": factor * group["lr"]})
        optimizer.param_groups[:] = groups
        return optimizer

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss, and in training the method's regulariser, once a step however many micro-batches it has.

        TRL's losses are sums over the step's number of tokens, which are not divided again.
        """
        loss = super().compute_loss(*args, **kwargs)
        hook = self.method.hook
        extra = hook.regulariser() if hook and self.model.training else None
        return loss if extra is None else loss + extra / self.current_gradient_accumulation_steps

    def after_optimizer_step(self) -> None:
        """Let the method's hook act; a step that was skipped left no gradients to act on."""
        skipped = self._skipped_in_a_row or self.accelerator.optimizer_step_was_skipped  # the latter: fp16 overflowed
        if self.method.hook and not skipped:
            step = self.state.global_step + 1
            if facts := self.method.hook.after_step(step):
                self.events.write("method", step=step, **facts)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """What `held_out` finds; its numbers are logged."""
        self.model.eval()
        self.evaluation, self.evaluated_at = self.held_out(), self.state.global_step
        numbers = {name: value for name, value in self.evaluation.items() if isinstance(value, int | float)}
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in numbers.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def held_out(self) -> dict[str, Any]:
        """What the held-out rows say about the model, which is in evaluation mode: its `loss`, and more."""
        raise NotImplementedError

    def held_out_words(self, facts: dict[str, Any]) -> str:
        """What `held_out` found, in a line."""
        raise NotImplementedError

    def step_facts(self, logs: dict[str, float], trained: int) -> dict[str, Any]:
        """What a step's event tells beside loss, speed and memory; `trained` is the batches' own count."""
        raise NotImplementedError

    # -- saving --------------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write into a staging folder, then hash, sync and rename it: a kill leaves all or nothing.

        All processes write, the first one makes the folder and renames it; where one of them fails, all go on without.
        """
        started = time.monotonic()
        step, run_dir = self.state.global_step, Path(self.args.output_dir)
        staging, target = staged(run_dir, step), run_dir / f"checkpoint-{step}"
        self.store_flos()
        self._agree_on_position()
        try:
            with self.ranks.together(StorageError):
                if self.ranks.first:
                    stage(run_dir, step)
            with self.ranks.together(StorageError):
                self._write(staging)
            with self.ranks.together(StorageError):
                if self.ranks.first:
                    commit(staging, target, {"step": step, "world_size": self.ranks.count, **self.facts})
                    rotate(run_dir, self.args.save_total_limit or 1, protect=[target])
        except StorageError as error:
            if self.ranks.first:
                shutil.rmtree(staging, ignore_errors=True)
            self._go_on_unsaved(error)
            return
        self.events.write("checkpoint", step=step, path=target.name, seconds=round(time.monotonic() - started, 3))

    def _write(self, staging: Path) -> None:
        """Write this process's part of a checkpoint. Raises StorageError, after all parts have been tried.

        Other processes are in the same parts, and may wait for what this one has to give.
        """
        failures = []
        for part in (self.write_model, self.write_state, self._save_rng_state, self._write_progress):
            try:
                with storage_errors(staging):
                    part(str(staging))
            except StorageError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _write_progress(self, folder: str) -> None:
        if self.ranks.first:
            self.state.save_to_json(str(Path(folder) / TRAINER_STATE_NAME))

    def _agree_on_position(self) -> None:
        """A stream stands behind the last row that any process has taken from it."""
        if "stream" in self.facts:
            position: Any = self.facts["stream"]
            self.facts["stream"] = max(self.ranks.gather(position))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Upstream writes a card with every checkpoint; the run has one card, written at its end."""

    def _go_on_unsaved(self, error: StorageError) -> None:
        """A full disk does not end a run that can still finish; a save on the way out must not fail in silence."""
        if self.control.should_training_stop:
            raise error
        self.events.write("save_failed", step=self.state.global_step, why=str(error))
        self.say.warning(f"step {self.state.global_step}: checkpoint not saved, training goes on: {error}")


def _lengths(example: dict[str, Any]) -> list[int]:
    """Tokens of each row: of those packed into an example, of the answers to a prompt, or of the one that it is."""
    lengths: list[int] = example.get("seq_lengths") or example.get("lengths") or [len(example["input_ids"])]
    return lengths


def _leave_signals(then: Callable[[int], None] | None, worker: int) -> None:
    """A worker of a data loader outlives the signals that ask the run to save: it is the run that ends it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if then is not None:
        then(worker)
