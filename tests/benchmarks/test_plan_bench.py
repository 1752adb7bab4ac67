"""The benchmark of plans: its recipes, models, rows and numbers; its runs are started by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftune.recipes.load import load_recipe

GIB = 2**30
Names = dict[str, Any]


def test_settings_are_different_valid_recipes(module: Callable[[str], Names], tmp_path: Path) -> None:
    settings = module("plan_parts/settings.py")["SETTINGS"]
    elsewhere = {"backend", "model", "data", "optim"}
    texts = {
        setting.name: json.dumps({**setting.in_folder(tmp_path), "output_dir": str(tmp_path)}) for setting in settings
    }
    assert len(texts) == len(set(texts.values())) == len(settings)
    for setting in settings:
        recipe: Any = load_recipe(None, Path("x"), text=texts[setting.name], elsewhere=elsewhere).recipe
        assert (recipe.type, recipe.backend.known_processes) == (setting.kind, setting.gpus)
    assert sum(setting.gpus == 1 for setting in settings) >= 24


def test_models_load_whole_and_rows_have_the_tokens_that_are_said(
    module: Callable[[str], Names], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    material, settings = module("plan_parts/material.py"), module("plan_parts/settings.py")
    material["write_model"](tmp_path / "8B", settings["TINY"]["8B"])
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "8B", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert 0.01 < float(model.lm_head.weight.detach().std()) < 0.03
    assert float(model.model.norm.weight.detach().min()) == 1.0
    setting = settings["Setting"]
    chosen = [setting("a", "8B", 16), setting("b", "8B", 12, {}, "rm"), setting("c", "8B", 10, {}, "ppo")]
    material["write_rows"](tmp_path, chosen, 512)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "8B")
    for each, ended in zip(chosen, (1, 1, 0), strict=True):
        for line in (tmp_path / each.file).read_text(encoding="utf-8").splitlines():
            for text in json.loads(line).values():
                assert len(tokenizer(text)["input_ids"]) + ended == each.length


def test_ranks_are_merged_to_the_most_that_one_of_them_had(module: Callable[[str], Names]) -> None:
    merged = module("plan.py")["merged"]
    found = merged([{"peak": 5, "seconds": 2.0, "tokens": 9}, {"peak": 7, "seconds": 1.0, "error": "lost"}])
    assert found == {"peak": 7, "seconds": 2.0, "tokens": 9, "error": "lost"}
    assert merged([{"peak": None}, {"peak": None}]) == {"peak": None}
