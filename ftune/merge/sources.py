"""What a path in a merge recipe is: the result of a run, an adapter's folder, or a model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftune.core.errors import ModelError
from ftune.core.paths import expanded
from ftune.merge.settings import read_settings
from ftune.models.reference import check_reference, is_hub_id
from ftune.models.reward_facts import read_reward_facts
from ftune.report.run_folder import read_state

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
RECIPE = "recipe.resolved.json"
HEADS = ("score.weight", "classifier.weight")


@dataclass(frozen=True, slots=True)
class Found:
    """A source that is here."""

    path: str
    """As it was given."""
    folder: str
    """Of the adapter; of a model what `locate_model` takes."""
    adapter: bool
    base: str = ""
    """What an adapter was trained on, as `locate_model` takes it; empty where nobody wrote it down."""
    revision: str | None = None
    run: Path | None = None
    """The folder of the run that made it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The resolved recipe of that run."""

    @property
    def quantization(self) -> dict[str, Any]:
        """How the base's weights were stored while it was trained; empty where they were not quantised."""
        section: dict[str, Any] = self.settings.get("model", {}).get("quantization", {})
        return {} if section.get("type", "none") == "none" else section

    @property
    def unmergeable(self) -> str:
        """Why the method of its run cannot be merged; empty where it can, or where that is not known."""
        from ftune.core.variants import class_of, variants_of
        from ftune.peft.base import PeftMethod

        section: dict[str, Any] = self.settings.get("peft") or {}
        if not self.adapter or not (variant := variants_of(PeftMethod).get(str(section.get("type")))):
            return ""
        method = class_of(variant, section["type"]).model_validate_json(json.dumps(section))
        why: str = method.limits().get("merge", "")
        return why

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of a classifier's outputs; none of a language model."""
        folder = Path(self.folder)
        if not self.adapter:
            return _classes_of(folder)
        if not folder.is_dir():
            return ()
        if read_settings(folder / ADAPTER).get("task_type") != "SEQ_CLS":
            return ()
        facts = read_reward_facts(folder)
        if facts and facts.labels:
            return tuple(facts.labels)
        return tuple(f"LABEL_{number}" for number in range(_outputs(folder)))


def find_source(path: str) -> Found:
    """What is at `path`. Raises ModelError where nothing is that could be merged."""
    folder = expanded(path)
    if (folder / RECIPE).is_file():
        return _of_run(path, folder)
    if (folder / "adapter" / ADAPTER).is_file() and not (folder / ADAPTER).is_file():
        folder = folder / "adapter"  # of a run whose recipe was lost
    if (folder / ADAPTER).is_file():
        parent = folder.absolute().parent
        if folder.name == "adapter" and (parent / RECIPE).is_file():
            return _of_run(path, parent)
        return _adapter(path, folder)
    if problem := check_reference(path):
        raise ModelError(f"{path}: {problem.replace('no model', 'neither a run, an adapter nor a model')}")
    if is_hub_id(path) and (fetched := _adapter_of_hub(path)):
        return _adapter(path, fetched)
    return Found(path, path, adapter=False)


@contextmanager
def told_of(place: str) -> Iterator[None]:
    """What is wrong with a model is said of `place`, and not of the recipe key that training has for it."""
    try:
        yield
    except ModelError as error:
        raise ModelError(str(error).replace("model.path:", f"{place}:", 1)) from error


def _of_run(path: str, folder: Path) -> Found:
    if (state := read_state(folder)) != "done":
        raise ModelError(f"{path}: the run there is {state or 'broken'}, not done; finish it with --resume")
    settings = read_settings(folder / RECIPE)
    if (folder / "adapter" / ADAPTER).is_file():
        found = _adapter(path, folder / "adapter")
        model: dict[str, Any] = settings.get("model", {})
        base = str(model.get("path", ""))
        base = found.base if not base or check_reference(base) else base  # it was relative to another folder
        return Found(path, found.folder, True, base, model.get("revision"), folder, settings)
    if not (folder / "model" / "config.json").is_file():
        raise ModelError(f"{path}: the run left no adapter and no model")
    return Found(path, str(folder / "model"), adapter=False, run=folder, settings=settings)


def _adapter(path: str, folder: Path) -> Found:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{path}: holds no adapter_model.safetensors; only safetensors are read")
    config = read_settings(folder / ADAPTER)
    kind, base, revision = (config.get(key) for key in ("peft_type", "base_model_name_or_path", "revision"))
    if not isinstance(kind, str):
        raise ModelError(f"{path}: {ADAPTER} does not say what kind of adapter it is ('peft_type'); fetch it again")
    return Found(path, str(folder), True, base if isinstance(base, str) else "", revision or None)


def _adapter_of_hub(path: str) -> Path | None:
    """The folder of an adapter on the hub; None for a whole model."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(path, allow_patterns=["adapter_*", "*.json", "*.jinja", "tokenizer*"]))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None  # whoever needs it as a model says why
    return folder if (folder / ADAPTER).is_file() else None


def _classes_of(folder: Path) -> tuple[str, ...]:
    """The names of the outputs of a whole model that is a classifier."""
    config = read_settings(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification"):
        return ()
    names: dict[str, str] = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # what transformers leaves out
    return tuple(names[key] for key in sorted(names, key=int))


def _outputs(folder: Path) -> int:
    """Outputs of the head that lies in an adapter's file."""
    from ftune.merge.tensors import stored_in

    for one in stored_in(folder / ADAPTER_WEIGHTS):
        if one.name.endswith(HEADS):
            return one.shape[0]
    return 1
