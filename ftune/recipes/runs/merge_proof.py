"""Whether a merged model computes what its adapter does on its base: each is loaded in turn, and they are compared."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.errors import FtuneError, LaunchError
from ftune.core.memory import free_memory
from ftune.core.paths import shown
from ftune.models.dtype import torch_name
from ftune.models.load import load_model
from ftune.recipes.merge import Verify
from ftune.recipes.runs.merge_rows import Rows

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ftune.merge.engines.compared import Dtype, Measured
    from ftune.recipes.runs.merge_plan import Plan

SPARE = 1.25
"""Room for a model and what it computes, as a multiple of its weights in fp32."""

SCORES_DIFFER = {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.3}
"""Largest difference of a classifier's scores, as a share of the adapter's largest effect on them."""

PACKED = {"Linear4bit", "Linear8bitLt"}
"""Layers of bitsandbytes."""


@dataclass(slots=True)
class Tried:
    """What a model gives for the rows."""

    logits: "list[Tensor]"
    completions: list[str]


def check_room(plan: "Plan") -> None:
    """Raises LaunchError where the proof would not fit into memory or has no GPU, before hours are spent on a merge."""
    if plan.recipe.verify is None:
        return
    if plan.recipe.verify.device == "cuda" and not has_cuda():
        raise LaunchError("verify.device: there is no GPU here; use 'auto' or 'cpu'")
    numbers = sum(one.numel for one in plan.base.tensors.values())
    need = SPARE * 4 * numbers
    free = free_memory()
    if _device(plan.recipe.verify, need) == "cpu" and need > free:
        raise LaunchError(
            f"verify: the proof loads the model in fp32 and needs {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} "
            "GiB are free; --no-verify leaves it out"
        )


def prove(plan: "Plan", merged: Path, rows: Rows | None) -> dict[str, str]:
    """What was measured, in words; empty where nothing is to be proved.

    Raises FtuneError where the merged model is not what was trained, and leaves it aside under another name.
    """
    verify, only = plan.recipe.verify, plan.only
    if verify is None or rows is None:
        plan.say.warning("the merged model was not compared with the adapter on its base (verify: null)")
        return {}
    try:
        if only is None or not only.adapter:
            return _computes(plan, verify, merged, rows)
        return _compared(plan, verify, merged, rows)
    except _FailedError as failed:
        aside = _set_aside(merged, plan.output)
        raise FtuneError(f"{shown(aside)}: {failed}; nothing was put into {shown(plan.output)}") from None


class _FailedError(Exception):
    """The proof failed."""


def _compared(plan: "Plan", verify: Verify, merged: Path, rows: Rows) -> dict[str, str]:
    from ftune.merge.engines.compared import advice, measure, verdict
    from ftune.peft.adapters import load_adapter

    source, dtype, say = plan.sources[0], _written_dtype(plan), plan.say
    device = _device(verify, SPARE * 4 * sum(one.numel for one in plan.base.tensors.values()))

    def tried(load: "Callable[[], Any]") -> Tried:
        found = _tried(load(), plan, verify, rows)
        gc.collect()
        return found

    def base() -> "PreTrainedModel":
        model = load_model(plan.located, dtype="float32", device=device, classes=plan.classes, **_options(plan))
        if plan.base.config.get_text_config().vocab_size != model.config.get_text_config().vocab_size:
            model.resize_token_embeddings(plan.base.config.get_text_config().vocab_size)
        return model

    reference = base if plan.recipe.base_weights == "full" else lambda: _unpacked(_quantised(plan, device)(), base())
    before = tried(reference)
    trained = tried(lambda: load_adapter(reference(), Path(source.folder)))
    after = tried(lambda: load_model(str(merged.resolve()), dtype="float32", device=device, classes=plan.classes))
    if plan.classes:
        return _scores_compared(plan, before, trained, after)
    both = trained.completions, after.completions
    found = measure(trained.logits, before.logits, after.logits, completions=both)
    if problem := verdict(found, dtype):
        raise _FailedError(problem)
    say.line(
        f"  ok: computes what the adapter does on its base: KL {found.kl:.1e} per token of {found.effect:.1e} that the "
        f"adapter changes; logits differ by {found.largest:.1e} of the largest ({found.mean:.1e} on average)"
        f"{_same(found, verify)} ({rows.words})"
    )
    if hint := advice(found, dtype):
        say.warning(hint)
    told = _told(found, verify)
    if source.quantization:
        seen = tried(lambda: load_adapter(_quantised(plan, device)(), Path(source.folder)))
        drift = measure(seen.logits, before.logits, after.logits, completions=(seen.completions, after.completions))
        say.line(_drift(drift, source.quantization["type"], plan.recipe.base_weights, _same(drift, verify)))
        told["drift to the adapter on quantised weights (KL per token)"] = f"{drift.kl:.1e}"
    return told


def _same(found: "Measured", verify: Verify) -> str:
    same = f"; {found.same_greedy} of {found.rows} greedy completions are the same"
    return same if verify.max_new_tokens else ""


def _drift(drift: "Measured", kind: str, base_weights: str, same: str) -> str:
    full = base_weights == "full"
    weights = "full ones" if full else "what these stand for"
    hint = "; 'base_weights=quantized' merges into the weights it was trained on" if full else ""
    return (
        f"  drift: trained on {kind} weights, merged into {weights}: KL {drift.kl:.1e} per token to what was trained, "
        f"which is {drift.effect:.1e} from the base{same}{hint}"
    )


def _unpacked(packed: "PreTrainedModel", model: Any) -> "PreTrainedModel":
    """`model` with what the quantised weights of `packed` stand for, as bitsandbytes unpacks them."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    for path, module in packed.named_modules():
        if type(module).__name__ in PACKED:
            weight = dequantize_bnb_weight(module.weight, getattr(module, "state", None))
            model.get_submodule(path).weight.data = weight.float()
    unpacked: PreTrainedModel = model
    return unpacked


def _told(found: "Measured", verify: Verify) -> dict[str, str]:
    return {
        "KL per token (nats)": f"{found.kl:.1e}",
        "the adapter's own effect (KL per token)": f"{found.effect:.1e}",
        "share of it lost to rounding": f"{found.lost:.2%}",
        "largest difference of logits, of the largest logit": f"{found.largest:.1e}",
    } | ({"same greedy completions": f"{found.same_greedy} of {found.rows}"} if verify.max_new_tokens else {})


def _scores_compared(plan: "Plan", before: Tried, trained: Tried, after: Tried) -> dict[str, str]:
    pairs = list(zip(before.logits, trained.logits, after.logits, strict=True))
    effect = max(float((adapted - base).abs().max()) for base, adapted, _ in pairs)
    largest = max(float((adapted - merged).abs().max()) for _, adapted, merged in pairs)
    share, limit = largest / max(effect, 1e-9), SCORES_DIFFER[_written_dtype(plan)]
    if not share <= limit:
        raise _FailedError(f"scores differ by {largest:.1e}, {share:.1%} of the adapter's effect ({limit:.1%} allowed)")
    plan.say.line(f"  ok: scores as the adapter does on its base: they differ by {largest:.1e} at most")
    return {"largest difference of scores": f"{largest:.1e}", "the adapter's largest effect": f"{effect:.1e}"}


def _computes(plan: "Plan", verify: Verify, merged: Path, rows: Rows) -> dict[str, str]:
    """Of several sources, or none that was trained by an adapter, there is nothing to compare with."""
    device = _device(verify, SPARE * 4 * sum(one.numel for one in plan.base.tensors.values()))
    model = load_model(str(merged.resolve()), dtype="float32", device=device, classes=plan.classes)
    found = _tried(model, plan, verify, rows)
    if not all(bool(row.isfinite().all()) for row in found.logits):
        raise _FailedError("some of its logits are not finite")
    plan.say.line(f"  ok: loads, and all logits of {len(found.logits)} {rows.words} are finite")
    return {"rows with finite logits": str(len(found.logits))}


def _tried(model: "PreTrainedModel", plan: "Plan", verify: Verify, rows: Rows) -> Tried:
    import torch

    from ftune.merge.engines.compared import greedy, logits_of

    model.eval()
    ids = rows.ids(verify.rows, verify.max_length)
    if plan.classes:
        model.config.get_text_config().pad_token_id = rows.tokenizer.pad_token_id
        with torch.inference_mode():
            found = [model(input_ids=torch.tensor([row], device=model.device)).logits.float().cpu() for row in ids]
        return Tried(found, [])
    logits = [row.cpu() for row in logits_of(model, ids)]
    if not verify.max_new_tokens:
        return Tried(logits, [""] * len(ids))
    prompts = rows.prompts(verify.rows, verify.max_length)
    texts = greedy(model, rows.tokenizer, prompts, max_new_tokens=verify.max_new_tokens, stop_ids=rows.stops)
    return Tried(logits, texts)


def _quantised(plan: "Plan", device: str) -> "Callable[[], PreTrainedModel]":
    """Loads the base with its weights quantised as in training."""
    from ftune.core.variants import variants_of
    from ftune.models.quantization.base import Quantization
    from ftune.recipes.runs.merge_plan import trained_dtype

    source = plan.sources[0]
    section = variants_of(Quantization)[source.quantization["type"]].model_validate(source.quantization)
    dtype = torch_name(trained_dtype(source))
    return lambda: load_model(
        plan.located,
        dtype=dtype,
        device=device,
        classes=plan.classes,
        loader_args=section.loader_args(dtype),
        **_options(plan),
    )


def _options(plan: "Plan") -> dict[str, Any]:
    revision = plan.recipe.revision or plan.sources[0].revision
    return {"revision": revision, "trust_remote_code": plan.recipe.trust_remote_code}


def _written_dtype(plan: "Plan") -> "Dtype":
    """The coarsest dtype that changed weights were written in."""
    if plan.recipe.dtype != "keep":
        return plan.recipe.dtype
    found = {one.dtype for one in plan.base.tensors.values()}
    return "bf16" if "BF16" in found else "fp16" if "F16" in found else "fp32"


def has_cuda() -> bool:
    """Whether there is a GPU of NVIDIA's or AMD's."""
    import torch

    return torch.cuda.is_available()


def _device(verify: Verify, need: float) -> str:
    import torch

    if verify.device == "cpu" or not has_cuda():
        return "cpu"
    return "cuda" if verify.device == "cuda" or need < torch.cuda.mem_get_info()[0] else "cpu"


def _set_aside(folder: Path, output: Path) -> Path:
    """Keep a model that failed its proof, under a name that nobody takes for the result."""
    names: Sequence[str] = [f"{output.name}.failed", *(f"{output.name}.failed-{number}" for number in range(2, 1000))]
    aside = next(output.with_name(name) for name in names if not output.with_name(name).exists())
    folder.replace(aside)
    return aside
