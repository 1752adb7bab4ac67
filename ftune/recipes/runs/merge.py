"""What `ftune merge` does: find what is merged, write the model tensor by tensor, prove it, export it."""

import shutil
import time
from pathlib import Path
from typing import Any

from ftune.core.checkpoints import stage_folder, writing
from ftune.core.paths import shown
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.merge.folder import OF_ADAPTER, add_stop, check_output, put_in_place
from ftune.recipes.base import RunOptions
from ftune.recipes.merge import MergeRecipe
from ftune.recipes.runs.merge_plan import Plan, bytes_to_write, inputs_of, planned


def run_merge(recipe: MergeRecipe, options: RunOptions) -> None:
    """Merge, prove and export. Raises ModelError for what cannot be merged, StorageError for a disk that refuses."""
    from ftune.recipes.runs.merge_exports import check_exports, export
    from ftune.recipes.runs.merge_proof import check_room, prove
    from ftune.recipes.runs.merge_rows import rows_of
    from ftune.recipes.runs.merge_write import write_card, write_merged

    say, started = Say(), time.monotonic()
    quiet_bars()
    plan = planned(recipe, options, say)
    check_exports(plan)
    check_output(plan.output, inputs_of(plan), bytes_to_write(plan), overwrite=plan.overwrite)
    if recipe.save == "adapter":
        _join(plan)
        return
    check_room(plan)
    rows = rows_of(plan.sources, plan.located, say) if _wants_rows(plan) else None
    staging = stage_folder(plan.output)
    with writing(staging):
        write_merged(plan, staging, rows)
        if rows and plan.sources[0].run and not plan.classes and rows.stops and add_stop(rows.stops[0], staging):
            say.line(f"  generation ends with {rows.tokenizer.decode(rows.stops[:1])!r} too, as in training")
        say.line(f"  written in {time.monotonic() - started:.0f} s")
        write_card(plan, staging, prove(plan, staging, rows))
    put_in_place(staging, plan.output)
    say.result(f"model: {shown(plan.output)}")
    export(plan, rows)


def _wants_rows(plan: Plan) -> bool:
    return bool(plan.recipe.verify or plan.recipe.quantize or plan.sources[0].run or plan.classes)


def _join(plan: Plan) -> None:
    """Several LoRA adapters made one."""
    from ftune.merge.engines.joined import join_adapters

    combine: Any = plan.recipe.combine
    staging = stage_folder(plan.output)
    with writing(staging):
        join_adapters(
            [Path(source.folder) for source in plan.sources],
            [source.weight for source in plan.recipe.sources],
            staging,
            getattr(combine, "rank", None),
        )
        for file in sorted(Path(plan.sources[0].folder).iterdir()):
            if file.is_file() and file.name not in OF_ADAPTER:
                shutil.copyfile(file, staging / file.name)
    put_in_place(staging, plan.output)
    plan.say.result(f"adapter: {shown(plan.output)}")
