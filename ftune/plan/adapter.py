"""What a PEFT method adds to a model, or lets train of it, as numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What trains, and what it makes a token and a layer keep."""

    parameters: int = 0
    """New parameters that train; they are kept in fp32."""
    base: int = 0
    """Of the model's own parameters, how many train; they are kept in fp32."""
    frozen: int = 0
    """New numbers in fp32 that do not train: shared random projections, masks."""
    low_rank: tuple[tuple[str, int], ...] = ()
    """Of one decoder layer: the linear layers (by `Linear.name`) that have a path of its own from their input, and how
    wide its middle is. For LoRA the rank."""
    saved: float = 0.0
    """Numbers that a token's forward pass keeps in one decoder layer beside those of the model and of `low_rank`: of
    networks between sublayers, for instance; each in the dtype of products."""
    saved_fp32: float = 0.0
    """Numbers of the same kind that are kept in the dtype of the adapter's parameters: fp32, where these are."""
    shares_inputs: bool = False
    """Whether the products of `low_rank` read what the model's own read, not a copy in the adapter's dtype."""
    dense_fp32: int = 0
    """Numbers in fp32 that a forward pass makes anew and keeps, over all layers, however many tokens there are."""
    virtual_tokens: int = 0
    """Tokens put before each row, as inputs (prompt tuning)."""
    prefix_tokens: int = 0
    """Tokens put before each row as keys and values alone (prefix tuning)."""
    lowest_layer: int = 0
    """The lowest decoder layer whose parameters train; those below it keep nothing for the backward pass."""
    passing: int = 0
    """Numbers, in the dtype of products, of matrices that come and go at once while the widest layer makes what it
    adds, or makes its gradients: beside what the pass keeps."""
    passing_fp32: int = 0
    """The same in fp32."""
