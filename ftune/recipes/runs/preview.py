"""`ftune data preview`: the rows of a recipe as the model will see them."""

import json

from ftune.core.errors import RecipeError
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.recipes.base import Recipe
from ftune.recipes.data_section import Data
from ftune.recipes.runs.inputs import load_inputs, packing_line, refused_layouts
from ftune.recipes.training import TrainingRecipe


def preview(recipe: Recipe, *, rows: int, as_json: bool) -> None:
    """Print the first sequences, the counts and the checks; no weights are loaded.

    Rows that training would refuse do not end the preview: the good ones are shown, then what is wrong with the others.
    """
    from ftune.data.pack import pack
    from ftune.data.preview import preview_json, render_preview

    if not isinstance(recipe, TrainingRecipe):
        raise RecipeError("type: 'ftune data preview' shows the rows of recipes for 'sft' and 'rm'")
    quiet_bars()
    say = Say()
    inputs = load_inputs(recipe, say, looking=True)
    train = inputs.train
    if as_json:
        shown = preview_json(train, inputs.tokenizer, rows)
        say.result(json.dumps({"rows": shown, **inputs.described()}, ensure_ascii=False))
    else:
        color = say.out.is_terminal and not say.out.no_color
        packing = isinstance(recipe.data, Data) and recipe.data.packing
        bins = pack(train.lengths.tolist(), recipe.data.max_length) if packing else None
        width = min(say.out.width, 100)
        say.out.print(render_preview(train, inputs.tokenizer, rows, bins=bins, color=color, width=width))
        if bins is not None:
            say.result(packing_line(train, bins, recipe.data.max_length))
    for fault in train.counts.faults:
        say.line(f"  {fault}")
    for refused in refused_layouts(recipe):
        say.warning(f"training would not start: {refused}")
    if train.counts.faults and recipe.data.on_bad_row == "error":
        say.warning("training would stop at these rows; repair them, or set 'data.on_bad_row: drop'")
    if train.has_verdicts and isinstance(recipe.data, Data) and recipe.data.on_preference == "error":
        say.warning("'ftune sft' trains on one good answer a row: set 'data.on_preference: chosen'")
