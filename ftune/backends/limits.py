"""What backends do not go with that spread the optimiser's state over processes."""

_WAY_OUT = "use 'adamw', or 'backend: ddp'"


def of_optimizers(pieces: str) -> dict[str, str]:
    """Optimisers that need whole parameters, where a process holds `pieces` of them (in words)."""
    blocks = f"it keeps its state in blocks of its own, which do not follow {pieces}; {_WAY_OUT}"
    return {
        "adafactor": f"it factors whole matrices, and a process holds {pieces}; {_WAY_OUT}",
        "adamw_8bit": blocks,
        "adamw_bf16": f"it steps on whole weights in bf16, and a process holds {pieces}, in fp32; {_WAY_OUT}",
        "paged_adamw_8bit": blocks,
        "paged_adamw": f"bitsandbytes pages whole tensors, and a process holds {pieces}; {_WAY_OUT}",
    }


def of_quantization(backend: str) -> dict[str, str]:
    """Quantised weights, where a backend (in words) cuts the weights themselves into parts."""
    reason = f"{backend} cuts weights into parts, and packed ones cannot be cut; use 'none', or 'backend: ddp'"
    return {"nf4": reason, "int8": reason}
