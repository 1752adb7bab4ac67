"""Prompt tuning (arXiv:2104.08691): trained embeddings before those of the text."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ftune.core.errors import ModelError
from ftune.peft.base import NOTHING, Feature, Material, PeftMethod
from ftune.peft.targets import in_fp32, sizes, task_type
from ftune.peft.virtual_tokens import LIMITS, common_tokens, padding_goes_first, prompts
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Prompt(PeftMethod):
    """The model reads [P; X] in place of X, where X embeds the text and only P trains."""

    default_learning_rate: ClassVar[float] = 0.1

    type: Literal["prompt"] = "prompt"
    """Trained embeddings before the text's."""

    virtual_tokens: Annotated[int, Field(ge=1)] = 20
    """Length of the prompt. It is all that trains: tokens x hidden size."""

    init: Literal["random", "text", "vocabulary"] = "vocabulary"
    """What the prompt starts as: noise as wide as the embeddings, the embeddings of `text`, or those of tokens drawn
    from the 5,000 most frequent."""

    text: str | None = None
    """The text to start as, such as the task in words; it is repeated or cut to the number of virtual tokens."""

    @model_validator(mode="after")
    def _text_with_init(self) -> Self:
        if (self.text is not None) != (self.init == "text"):
            raise ValueError("text: 'init: text' starts from it, and nothing else does; give both or neither")
        return self

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with a prompt. Raises ModelError when `text` has no tokens."""
        import torch
        from peft import PromptTuningConfig, get_peft_model

        config = PromptTuningConfig(
            task_type=task_type(model),
            num_virtual_tokens=self.virtual_tokens,
            **sizes(model),
            num_transformer_submodules=1,  # an encoder-decoder has its prompt in the encoder, as in the paper
        )
        table = model.get_input_embeddings()
        with torch.no_grad():  # by its forward pass, as some models scale what is in the table (Gemma 3)
            embeddings = table(torch.arange(len(table.weight), device=model.device)).float()
        wrapped = get_peft_model(model, config)
        prompt = wrapped.prompt_encoder["default"].embedding.weight
        with torch.no_grad():
            if self.init == "random":
                prompt.normal_(std=float(embeddings.std()))
            else:
                prompt.copy_(embeddings[self._first_tokens(len(embeddings), material.tokenizer)])
        return padding_goes_first(in_fp32(wrapped))

    def planned(self, shape: ModelShape) -> Adapter:
        """Tokens x hidden size."""
        return prompts(shape, self.virtual_tokens, self.virtual_tokens * shape.hidden)

    def _first_tokens(self, vocabulary: int, tokenizer: "PreTrainedTokenizerBase | None") -> list[int]:
        """The ids of the tokens that the prompt starts as."""
        if self.text is not None:
            if tokenizer is None:
                raise ModelError("peft.text: it needs the model's tokenizer; use 'init: vocabulary' without one")
            ids: list[int] = tokenizer(self.text, add_special_tokens=False)["input_ids"]
            if not ids:
                raise ModelError("peft.text: it has no tokens; write the task in words, or use 'init: vocabulary'")
            return (ids * self.virtual_tokens)[: self.virtual_tokens]
        return common_tokens(self.virtual_tokens, vocabulary, tokenizer)

    def limits(self) -> dict[Feature, str]:
        """What no virtual tokens go with."""
        return LIMITS
