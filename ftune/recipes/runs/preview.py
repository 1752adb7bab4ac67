"""`ftune data preview`: the rows of a recipe as the model will see them."""

import json

from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.recipes.base import Recipe
from ftune.recipes.runs.sft import load_inputs
from ftune.recipes.sft import SftRecipe


def preview(recipe: Recipe, *, rows: int, as_json: bool) -> None:
    """Print the first rows, the counts and the checks; no weights are loaded."""
    from ftune.data.preview import preview_json, render_preview

    if not isinstance(recipe, SftRecipe):
        raise TypeError(f"no preview for a recipe of '{type(recipe).__name__}'")
    quiet_bars()
    say = Say()
    inputs = load_inputs(recipe, say)
    if as_json:
        shown = preview_json(inputs.train, inputs.tokenizer, rows)
        say.result(json.dumps({"rows": shown, **inputs.described()}, ensure_ascii=False))
        return
    color = say.out.is_terminal and not say.out.no_color
    say.out.print(render_preview(inputs.train, inputs.tokenizer, rows, color=color, width=min(say.out.width, 100)))
