"""Proof before the first step that packed rows do not see each other."""

from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ftune.core.errors import ModelError


@torch.no_grad()
def probe_packing(model: PreTrainedModel, rows: list[list[int]]) -> float:
    """Largest absolute difference of logits between two rows packed into one sequence and each alone.

    Runs the real model with its real attention. Raises ModelError over 1e-3 in fp32 (16 bit: over 0.15 of the largest
    logit, where rounding was measured to make up to 0.05 and a leak 0.5 and more): then one document reads another and
    packing would train on nonsense.
    """
    device = next(model.parameters()).device
    examples = [{"input_ids": row, "labels": row} for row in rows[:2]]
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)

    def logits_of(batch: dict[str, Any]) -> torch.Tensor:
        inputs = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
        inputs.pop("labels")
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
        return logits[0].float()

    was_training = model.training
    model.eval()
    together = logits_of(collate(examples))
    alone = torch.cat([logits_of(collate([example])) for example in examples])
    model.train(was_training)
    difference = float((together - alone).abs().max())
    exact = next(model.parameters()).dtype == torch.float32 and together.dtype == torch.float32
    limit = 1e-3 if exact else 0.15 * float(alone.abs().max())
    if difference > limit:
        raise ModelError(
            f"data.packing: packed rows see each other with this model and attention (logits differ by "
            f"{difference:.3g}); use 'model.attention: sdpa' or 'data.packing: false'"
        )
    return difference
