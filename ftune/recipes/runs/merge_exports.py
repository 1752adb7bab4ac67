"""What a merged model is exported to: a quantised copy, a GGUF file, the hub."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.checkpoints import write_atomically
from ftune.core.errors import ModelError
from ftune.core.paths import shown
from ftune.merge.folder import check_output

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ftune.recipes.merge import Quantize
    from ftune.recipes.runs.merge_plan import Plan
    from ftune.recipes.runs.merge_rows import Rows

MODELFILE = "Modelfile"


def check_exports(plan: "Plan") -> None:
    """What can be told before any work. Raises ModelError."""
    from ftune.merge.gguf.kinds import check_kind
    from ftune.merge.gguf.write import check_architecture
    from ftune.merge.quantized.kind import quantization_fault
    from ftune.models.push import repo_fault

    recipe = plan.recipe
    if recipe.quantize and (fault := quantization_fault(recipe.quantize.type, device_of(plan))):
        raise ModelError(f"quantize: {fault}")
    if recipe.quantize:
        check_output(quantized_folder(plan, recipe.quantize.type), [], 0, overwrite=plan.overwrite)
    if recipe.gguf:
        if plan.classes:
            raise ModelError("gguf: a classifier has no place for its head in a GGUF file; serve it with transformers")
        check_kind(recipe.gguf, plan.output, gguf_file(plan))
        _check_gguf_place(gguf_file(plan), overwrite=plan.overwrite)
        check_architecture(plan.base, plan.output, gguf_file(plan), recipe.gguf)
    if recipe.push and (fault := repo_fault(recipe.push.repo)):
        raise ModelError(f"push: {fault}")


def _check_gguf_place(file: Path, *, overwrite: bool) -> None:
    if file.parent.exists() and not file.parent.is_dir():
        raise ModelError(f"gguf: {shown(file.parent)} is a file, where a folder is needed; --output writes elsewhere")
    for there in (file, file.with_name(MODELFILE)):
        if there.exists() and not overwrite:
            raise ModelError(f"gguf: {shown(there)} is there; --overwrite replaces it, --output writes elsewhere")


def device_of(plan: "Plan") -> str:
    """Where exports compute."""
    import torch

    asked = plan.recipe.verify.device if plan.recipe.verify else "auto"
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def quantized_folder(plan: "Plan", kind: str) -> Path:
    """Where a quantised copy goes: beside the merged model."""
    return plan.output.with_name(f"{plan.output.name}-{kind}")


def gguf_file(plan: "Plan") -> Path:
    """Where a GGUF file goes: `gguf/` beside the merged model."""
    name = plan.output.parent.name if plan.output.name == "merged" else plan.output.name
    return plan.output.parent / "gguf" / f"{name or 'model'}-{plan.recipe.gguf}.gguf"


def export(plan: "Plan", rows: "Rows | None") -> None:
    """Write what the recipe asks for, from the finished folder. Each export stands alone: the model is kept."""
    if plan.recipe.quantize and rows:
        _quantize(plan, plan.recipe.quantize, rows)
    if plan.recipe.gguf:
        _gguf(plan)
    if plan.recipe.push:
        from ftune.models.push import push_folder

        url = push_folder(plan.output, plan.recipe.push.repo, private=plan.recipe.push.private, say=plan.say)
        plan.say.result(f"on the hub: {url}")


def _quantize(plan: "Plan", wanted: "Quantize", rows: "Rows") -> None:
    from ftune.merge.engines.quantized import quantize_folder

    say, target, device = plan.say, quantized_folder(plan, wanted.type), device_of(plan)
    check_output(target, [plan.output], 0, overwrite=plan.overwrite)
    done = quantize_folder(plan.output, target, wanted.type, device, max_shard_size=plan.recipe.max_shard_size)
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in (plan.output, target)]
    say.line(f"  {wanted.type}: {done.matrices} matrices, {sizes[0] / 1e9:.2f} GB became {sizes[1] / 1e9:.2f} GB")
    if labelled := rows.labelled(wanted.rows):
        from ftune.evals.perplexity import perplexity
        from ftune.models.load import load_model

        measure = partial(perplexity, rows=labelled, batch_size=4)
        load = partial(load_model, dtype="auto", device=device)
        before, after = (measure(_evaluated(load(str(folder.resolve())))) for folder in (plan.output, target))
        say.line(
            f"  perplexity of {len(labelled)} {rows.words}: {before.perplexity:.3f} before, {after.perplexity:.3f} "
            f"after; token accuracy {before.accuracy:.2%} and {after.accuracy:.2%}"
        )
    say.result(f"{wanted.type}: {shown(target)}")


def _evaluated(model: "PreTrainedModel") -> "PreTrainedModel":
    model.eval()
    return model


def _gguf(plan: "Plan") -> None:
    from ftune.merge.gguf.modelfile import modelfile
    from ftune.merge.gguf.write import write_gguf

    file, kind = gguf_file(plan), str(plan.recipe.gguf)
    with plan.say.console.status(f"{kind}: 0 tensors") as status:
        write_gguf(plan.output, file, kind, lambda done, count: status.update(f"{kind}: {done} of {count} tensors"))
    plan.say.result(f"GGUF: {shown(file)} ({file.stat().st_size / 1e9:.2f} GB)")
    try:
        text = modelfile(plan.output, file.name)
    except ModelError as error:
        plan.say.warning(f"no Modelfile for Ollama: {error}")
        return
    write_atomically(file.with_name(MODELFILE), text)
    plan.say.result(f"Ollama: ollama create NAME -f {shown(file.with_name(MODELFILE))}")
