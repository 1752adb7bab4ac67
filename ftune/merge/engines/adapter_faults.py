"""What is wrong with an adapter, in a line: it is not whole, was trained on another base, or peft refuses it."""

import json
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ftune.core.errors import ModelError
from ftune.core.paths import shown
from ftune.merge.checkpoint import first_of
from ftune.merge.tensors import stored_in

MISFIT = re.compile(
    r"size mismatch for (?:base_model\.model\.)?(?P<name>.+?)(?:\.default)?(?:\.weight)?: "
    r".*Size\(\[(?P<theirs>.*?)\]\).*Size\(\[(?P<ours>.*?)\]\)"
)
"""torch's line about a tensor of another shape."""

NO_LAYERS = "not found in the base model"
"""What peft 0.21 says where none of the layers that an adapter names is there."""

RIGHT_BASE = "name the right one with --base"
"""What to do about an adapter of another base, where a base can be named."""


def check_kind(folder: Path, kind: str) -> None:
    """Raises ModelError for a kind of adapter that peft does not know."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, __version__

    import ftune.peft.tuners  # noqa: F401 - makes ftune's own known to peft

    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ModelError(f"{shown(folder)}: is a '{kind}' adapter, which peft {__version__} does not know; update peft")


def check_whole(model: Any, weights: Path, of_base: Collection[str], right_base: str = RIGHT_BASE) -> None:
    """Raises ModelError where the file and the adapter that its configuration describes have not the same tensors.

    `of_base` are parameters of the base itself, as the file names them; `right_base` says how to name another base.
    """
    from peft import get_peft_model_state_dict

    stored = {one.name: one for one in stored_in(weights)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if absent := sorted(wanted - stored.keys()):
        raise ModelError(
            f"{shown(weights)}: lacks {first_of(absent)}; the file is not whole, or of a smaller base: fetch it again, "
            f"or {right_base}"
        )
    if homeless := sorted(stored.keys() - wanted - set(of_base)):
        raise _other_base(weights.parent, f"this one has no place for {first_of(homeless)}", right_base)
    for name, one in stored.items():
        value = one.read()
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(
                f"{shown(weights)}: '{name}' holds values that are not finite; take an earlier checkpoint's"
            )


@contextmanager
def in_words(folder: Path, fails: str, instead: str, right_base: str = RIGHT_BASE) -> Iterator[None]:
    """Turn what peft raises about an adapter into one line: what `fails`, why, and what to do `instead`.

    `right_base` is what to do where it was trained on another base. Memory that ran out stays torch's error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ModelError as error:  # of ftune's own kinds of adapter, which do not know their folder
        raise ModelError(f"{shown(folder)}: {fails}: {error}") from error
    except torch.OutOfMemoryError:
        raise
    except (
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        NotImplementedError,
        OSError,
        SafetensorError,
    ) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if misfits := [match for line in lines if (match := MISFIT.match(line))]:
            shapes = [f"'{one['name']}' is [{one['theirs']}], not [{one['ours']}]" for one in misfits]
            sign = f"{len(misfits)} tensors are of other shapes: {', '.join(shapes[:3])}"
            raise _other_base(folder, sign, right_base) from error
        if NO_LAYERS in lines[0]:
            sign = f"this one has no layers called {first_of(_targets(folder))}"
            raise _other_base(folder, sign, right_base) from error
        raise ModelError(f"{shown(folder)}: {fails}: {lines[0].rstrip('.')}; {instead}") from error


def _other_base(folder: Path, sign: str, right_base: str) -> ModelError:
    return ModelError(f"{shown(folder)}: was trained on another base: {sign}; {right_base}")


def _targets(folder: Path) -> list[str]:
    found = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("target_modules")
    return sorted(found) if isinstance(found, list) else [str(found)]
