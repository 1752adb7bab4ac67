"""bitsandbytes and the attention that will be used."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftune.launch.doctor.finding import Finding, error, ok, warning


def bitsandbytes(
    version: str | None, probed: Mapping[str, Any] | None, *, gpus: bool, wanted_by: str
) -> Iterator[Finding]:
    """Whether its library for this machine loads. `wanted_by`: the key of the recipe that needs it, or nothing."""
    if version is not None and probed is None:
        yield warning("bitsandbytes", f"bitsandbytes {version} could not be looked at: torch gave no answer")
        return
    if version is None or probed is None:
        if wanted_by:
            yield error("bitsandbytes", f"not installed, and {wanted_by} needs it", "pip install 'ftune[quantization]'")
        else:
            yield ok("bitsandbytes", "not installed; only nf4, int8 and 8-bit optimizers need it")
        return
    trouble = ""
    if probed.get("failed"):
        trouble = str(probed["failed"])
    elif probed["library"] is None:
        trouble = f"it has no library for {probed['wanted']}, only for {', '.join(probed['known']) or 'CPUs'}"
    elif probed["trouble"]:
        trouble = f"its library for {probed['wanted']} does not load: {probed['trouble']}"
    if trouble:
        remedy = "pip install -U bitsandbytes"
        said = f"bitsandbytes {version}: {trouble}"
        yield error("bitsandbytes", said, remedy) if wanted_by else warning("bitsandbytes", said, remedy)
    else:
        where = "the GPUs" if gpus else "CPUs (slow)"
        yield ok("bitsandbytes", f"bitsandbytes {version}, {probed['library']}: works on {where}")


def attention(
    choice: str, flash_attn: Mapping[str, Any] | None, capabilities: Sequence[Sequence[int]]
) -> Iterator[Finding]:
    """What computes attention. `choice` is `model.attention`; `capabilities` those of the GPUs, none on a CPU."""
    flash = flash_attn is not None
    trouble = (flash_attn.get("failed") or flash_attn.get("trouble") or "") if flash_attn else ""
    oldest = min((tuple(capability) for capability in capabilities), default=None)
    remedy = "install a flash-attn that was built for this torch, or set model.attention: sdpa"
    if choice == "flash_attention_2":
        if not flash:
            yield error("attention", "model.attention is flash_attention_2, but flash-attn is not installed", remedy)
        elif oldest is None or oldest < (8, 0):
            yield error("attention", "flash_attention_2 needs GPUs of compute capability 8.0", "model.attention: sdpa")
        elif trouble:
            yield error("attention", f"flash-attn does not load: {trouble}", remedy)
        else:
            yield ok("attention", "flash_attention_2, of the flash-attn package")
        return
    if trouble and oldest is not None:
        yield warning("attention", f"flash-attn is installed, but does not load: {trouble}", remedy)
    if choice not in ("auto", "sdpa"):
        yield ok("attention", f"{choice}, as the recipe says")
    elif oldest is None:
        yield ok("attention", "sdpa on the CPU")
    elif oldest >= (8, 0):
        yield ok("attention", "sdpa, with torch's own flash kernels for bf16 and fp16")
    else:
        yield ok("attention", "sdpa, memory-efficient kernels: flash kernels need compute capability 8.0")
