"""What a PEFT method adds to a model, or lets train of it, as numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What trains, and what it makes a token and a layer keep."""

    parameters: int = 0
    """New parameters that train; they are kept in fp32."""
    base: int = 0
    """Of the model's own parameters, how many train; they are kept in fp32."""
    copied: int = 0
    """Of `parameters`, how many are whole copies of the model's own modules (`modules_to_save`)."""
    frozen: int = 0
    """New numbers in fp32 that do not train: shared random projections, masks."""
    saved: float = 0.0
    """Numbers that a token's forward pass keeps for the backward pass, over all layers, beside what the model itself
    keeps; each in the dtype of products. For LoRA on a linear layer: the layer's input and its rank (`saved_low_rank`).
    """
    virtual_tokens: int = 0
    """Tokens put before each row, as inputs (prompt tuning)."""
    prefix_tokens: int = 0
    """Tokens put before each row as keys and values alone (prefix tuning)."""
    lowest_layer: int = 0
    """The lowest decoder layer whose parameters train; those below it keep nothing for the backward pass."""


def saved_low_rank(inputs: int, rank: int) -> float:
    """Numbers a token that low-rank factors beside one linear layer keep: their input and their inner vector."""
    return inputs + rank
