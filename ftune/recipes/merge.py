"""`ftune merge`: adapters and models made into one model, tensor by tensor, with proof; and what it is exported to."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ftune.core.section import Location, Section
from ftune.core.variants import union_of
from ftune.merge.combine.base import Combination
from ftune.merge.combine.linear import Linear
from ftune.models.reference import check_reference
from ftune.recipes.base import Recipe, RunOptions

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def bytes_in(size: str) -> int:
    """The number of bytes in words such as `5GB` or `500 MiB`. Raises ValueError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMG]I?B)?", size.strip().upper())
    count = int(float(found[1]) * UNITS[found[2] or ""]) if found else 0
    if count < 1:
        raise ValueError(f"'{size}' is no size; write one like 5GB or 500MB")
    return count


def _size(size: str) -> str:
    bytes_in(size)
    return size


def _bare_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str | dict) else value


class MergeSource(Section):
    """One of the models or adapters that are merged."""

    path: str
    """A run folder, an adapter's folder, or a model (folder, hub id, `.gguf` file, wheel)."""

    weight: float = 1.0
    """How much of it is taken; may be negative."""


class Verify(Section):
    """The proof that the merged model is the one that was trained."""

    rows: Annotated[int, Field(ge=1)] = 8
    """Rows whose logits are compared: held-out rows of the run, or short texts where there is no run."""

    max_length: Annotated[int, Field(ge=2)] = 128
    """Tokens of each that are looked at."""

    max_new_tokens: Annotated[int, Field(ge=0)] = 24
    """Tokens of the greedy completions that are compared."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where both models are computed, one after the other; `auto` takes a GPU that has room."""


class Quantize(Section):
    """A quantised copy of the merged model, in a folder beside it."""

    type: Literal["nf4", "int8", "fp8", "int4"]
    """`nf4` and `int8` by bitsandbytes, `fp8` and `int4` by torchao."""

    rows: Annotated[int, Field(ge=0)] = 64
    """Held-out rows of the run whose perplexity is measured before and after; 0 measures nothing."""


class Push(Section):
    """The merged model on the hub."""

    repo: str
    """`ORG/NAME`; made where it does not exist."""

    private: bool = True
    """Whether a repository that is made here is private."""


def _bare_quantize(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


def _bare_push(value: object) -> object:
    return {"repo": value} if isinstance(value, str) else value


class MergeRecipe(Recipe):
    """A recipe of `ftune merge`."""

    type: Literal["merge"] = "merge"
    """The command."""

    sources: Annotated[
        list[Annotated[MergeSource, BeforeValidator(_bare_source, json_schema_input_type=str | MergeSource)]],
        Field(min_length=1),
        BeforeValidator(_one_or_more, json_schema_input_type=str | MergeSource | list[str | MergeSource]),
    ]
    """What is merged; a bare path stands for a source with weight 1."""

    base: str | None = None
    """The model that adapters are added to; by default the one that they were trained on. For whole models the common
    ancestor that their updates are measured from."""

    revision: str | None = None
    """Commit, tag or branch of a base on the hub."""

    trust_remote_code: bool = False
    """Run Python code that comes with the base; needs a pinned `revision`."""

    base_weights: Literal["full", "quantized"] = "full"
    """What a QLoRA adapter is added to: the base's full-precision weights, or those weights after the quantisation that
    it was trained on (`quantized`)."""

    combine: union_of(Combination) = Linear()  # type: ignore[valid-type]
    """How several sources become one."""

    save: Literal["model", "adapter"] = "model"
    """A whole model, or one LoRA adapter of several (`combine: cat` or `svd`)."""

    output: str | None = None
    """Folder of the merged model; by default `merged` in the run's folder."""

    dtype: Literal["keep", "fp32", "bf16", "fp16"] = "keep"
    """Number format that is written; `keep` leaves each tensor in the base's."""

    max_shard_size: Annotated[str, AfterValidator(_size)] = "5GB"
    """Largest file of weights, such as `5GB` or `500MiB`."""

    verify: Verify | None = Verify()
    """The proof; `null` leaves it out, for models that do not fit into memory."""

    quantize: Annotated[
        Quantize | None, BeforeValidator(_bare_quantize, json_schema_input_type=str | Quantize | None)
    ] = None
    """Write a quantised copy too."""

    gguf: str | None = None
    """Write a GGUF file too, of this type (`f16`, `q8_0`, ...), with a Modelfile for Ollama."""

    push: Annotated[Push | None, BeforeValidator(_bare_push, json_schema_input_type=str | Push | None)] = None
    """Upload the merged model to this repository of the hub."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """What can be told without a look at the sources."""
        if self.base is not None and (problem := check_reference(self.base)):
            yield ("base",), problem
        if self.trust_remote_code and self.revision is None:
            yield ("trust_remote_code",), "runs code from the base's repository; pin it with 'revision: COMMIT'"
        if self.output is None and len(self.sources) > 1:
            yield ("output",), "say where the merged model goes: output=FOLDER, or --output FOLDER"
        if self.save == "adapter":
            yield from self._adapter_faults()

    def _adapter_faults(self) -> Iterator[tuple[Location, str]]:
        method: Any = self.combine
        if method.type not in ("cat", "svd"):
            yield (
                ("combine",),
                f"'{method.type}' has no low rank, so it cannot be saved as an adapter; use 'cat' or 'svd'",
            )
        settings = {"quantize": None, "gguf": None, "push": None, "dtype": "keep", "base_weights": "full"}
        for key, none in settings.items():
            if getattr(self, key) != none:
                yield (key,), "is for a whole model; use 'save: model', or leave it out"

    def execute(self, options: RunOptions) -> None:
        """Merge, prove, export."""
        from ftune.recipes.runs.merge import run_merge

        run_merge(self, options)
