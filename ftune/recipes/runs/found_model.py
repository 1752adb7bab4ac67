"""A source that was found, as a model that can be loaded: with the dtype and the quantisation of its run."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftune.merge.sources import Found
from ftune.models.dtype import resolve_dtype
from ftune.models.load import locate_model
from ftune.recipes.model_section import Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def section_of(found: Found) -> Model:
    """How to load what is under the adapter, or the whole model."""
    written: Mapping[str, Any] = found.settings.get("model", {})
    if found.adapter:
        known = {key: written[key] for key in ("dtype", "quantization") if key in written}
        known |= {"path": found.base, "revision": found.revision}
    else:
        known = {"path": found.folder} | {key: written[key] for key in ("dtype", "revision") if key in written}
    if written.get("trust_remote_code"):
        known["trust_remote_code"] = True
    return Model.model_validate_json(json.dumps(known))


def base_of(found: Found) -> Model | None:
    """What a whole model was tuned from, where its run says so."""
    if found.adapter or found.run is None:
        return None
    written: Mapping[str, Any] = found.settings.get("model", {})
    keys = ("path", "revision", "dtype", "trust_remote_code")
    return Model.model_validate_json(json.dumps({key: written[key] for key in keys if key in written}))


def load_section(section: Model, device: str = "auto", located: str | None = None) -> "PreTrainedModel":
    """On the GPU where there is one, with the attention of this machine and not of the one that trained."""
    import torch

    on_gpu = device != "cpu" and torch.cuda.is_available()
    dtype = resolve_dtype(section.dtype, on_gpu=on_gpu)
    return section.load(located or locate_model(section.path), dtype, "cuda" if on_gpu else "cpu")
