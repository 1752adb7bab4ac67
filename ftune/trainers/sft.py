"""Supervised fine-tuning: TRL's SFTTrainer on rows that are already masked tokens."""

import math
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig

from ftune.core.errors import RecipeError
from ftune.speed.flat import FlatCollator
from ftune.trainers.fed import Feeding
from ftune.trainers.feed import PreparedDataset, StreamDataset
from ftune.trainers.feeding import FastTrainer, feed, feeding_of
from ftune.trainers.fused_loss import FusedLossTrainer, WithPlaces
from ftune.trainers.speed import Speed
from ftune.trainers.training import Around, Outcome, arguments, train


class ReliableSFTTrainer(FastTrainer, FusedLossTrainer):
    """SFTTrainer with ftune's saves, checks and counts."""

    _correct = _looked_at = 0

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """How many tokens a step trains, over all processes where TRL wants that; no GPU is asked where places tell."""
        if not batch_samples or "loss_places" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        count = sum(len(batch["loss_places"]) for batch in batch_samples)
        return self.ranks.sums([count])[0] if self.args.average_tokens_across_devices else count

    def unread(self) -> list[torch.Tensor | float]:
        """Of how many tokens the model was right, and how many there were."""
        unread: list[torch.Tensor | float] = [*self.correct, self.looked_at]
        self.correct, self.looked_at = [], 0
        return unread

    def read(self, values: list[float]) -> None:
        """Keep them until they are logged."""
        *correct, looked_at = map(int, values)
        self._correct += sum(correct)
        self._looked_at += looked_at

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the share of correct tokens since the last log, over all processes."""
        if "loss" in logs:
            correct, tokens = self.ranks.sums([self._correct, self._looked_at])
            self._correct = self._looked_at = 0
            if tokens:  # otherwise TRL has counted
                self._metrics["train"]["mean_token_accuracy"] = [correct / tokens]
        super().log(logs, start_time)

    def step_facts(self, logs: dict[str, float], trained: int) -> dict[str, Any]:
        """How often the next token was the most likely one, and how many tokens were trained."""
        return {"token_accuracy": logs.get("mean_token_accuracy"), "trained_tokens": trained}

    def held_out(self) -> dict[str, Any]:
        """Loss, perplexity and token accuracy over the held-out tokens.

        Weighted by tokens, where transformers weighs batches by rows: the result does not depend on the batch size.
        """
        sums = torch.zeros(3, dtype=torch.float64, device="cpu")
        for inputs, counts in self.held_out_batches():
            found = self._sums(self._prepare_inputs(inputs)).to("cpu", torch.float64)
            sums += found if counts else 0.0
        loss_sum, correct, tokens = self.ranks.sum(sums).tolist()
        loss = loss_sum / tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "token_accuracy": correct / tokens,
            "tokens": tokens,
        }

    def held_out_words(self, facts: dict[str, Any]) -> str:
        """Loss and token accuracy."""
        return f"validation loss {facts['loss']:.4f}, token accuracy {facts['token_accuracy']:.1%}"

    def _sums(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Summed negative log-likelihood, correct next tokens and predicted tokens of a batch, shape (3,)."""
        with self.compute_loss_context_manager():
            if (places := inputs.get("loss_places")) is not None:
                loss, correct = self.summed(self.model, inputs)
                return torch.stack([loss.float(), correct.float(), correct.new_tensor(len(places)).float()])
            out = self.model(**inputs, use_cache=False, fused_lm_head=True)
        return torch.stack([-out.log_probs.float().sum(), out.is_top1.sum(), out.label_mask.sum()]).float()


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: PreparedDataset | StreamDataset,
    validation: PreparedDataset | None,
    around: Around,
    *,
    packed: bool,
    speed: Speed = Speed(),  # noqa: B008 - frozen
    feeding: Feeding | None = None,
) -> Outcome:
    """Train `model` in place; `around.args` are arguments of SFTConfig. Raises what `train` raises.

    Without `feeding`, a GPU gets its batches as is best for it.
    """
    trainer = _build(model, tokenizer, rows, validation, around.args, packed=packed)
    if speed.attention:
        trainer.data_collator = FlatCollator(rows.longest or 0, rounded=trainer.args.device.type == "cuda")
    if speed.fused_loss and (why := _own_loss(trainer)):
        speed = speed.without("fused_loss", why)
    if speed.fused_loss:
        trainer.data_collator = WithPlaces(trainer.data_collator)
    summed = rows if speed.attention and speed.fused_loss else None
    feed(trainer, around, speed, feeding or feeding_of(trainer, around, summed))
    return train(trainer, around, rows.prepared.origins if isinstance(rows, PreparedDataset) else None)


def _own_loss(trainer: ReliableSFTTrainer) -> str:
    """Why the loss is more than that of next tokens; empty where it is not."""
    if trainer.aux_loss_enabled:
        return "the balance of experts is trained too"
    if trainer.args.loss_type != "nll" or trainer.label_smoother is not None:
        return "trainer_args ask for another one"
    return ""


def _build(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: PreparedDataset | StreamDataset,
    validation: PreparedDataset | None,
    args: dict[str, Any],
    *,
    packed: bool,
) -> ReliableSFTTrainer:
    if isinstance(train, StreamDataset):  # it goes on by itself where it stood, and every process reads its own share
        args = {"accelerator_config": {"dispatch_batches": False}, **args, "ignore_data_skip": True}
    prepared = {"packing": packed, "max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    config = arguments(SFTConfig, args | prepared)
    if isinstance(train, StreamDataset) and config.dataloader_num_workers:
        raise RecipeError(
            "trainer_args.dataloader_num_workers: a stream is read by the training process, and each worker would "
            "read all of it again; remove it, or switch 'data.streaming' off"
        )
    stand_in = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})  # TRL 1.16 takes no other kind of data set
    trainer = ReliableSFTTrainer(
        model=model,
        args=config,
        train_dataset=stand_in,
        eval_dataset=stand_in if validation is not None else None,
        processing_class=tokenizer,
    )
    trainer.train_dataset, trainer.eval_dataset = train, validation
    return trainer
