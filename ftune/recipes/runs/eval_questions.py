"""The rows of an evaluation, as what is asked and what is wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.errors import DataError
from ftune.core.say import Say
from ftune.core.several import several
from ftune.data.example import Answered, Conversation, Message, Plain, PromptCompletion, Text
from ftune.data.row import Row
from ftune.data.stops import stop_ids
from ftune.data.table import pieces_of
from ftune.data.tokenize import IGNORED, RowTokenizer
from ftune.merge.sources import Found, told_of
from ftune.recipes.runs.eval_rows import Meant, held_out_sequences, longest_text, meant_rows
from ftune.recipes.runs.found_model import section_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftune.data.tasks.word_ids import WordIds
    from ftune.data.template import Template
    from ftune.evals.perplexity import LabelledRow
    from ftune.recipes.eval import EvalRecipe


@dataclass(frozen=True, slots=True)
class Question:
    """One row."""

    asked: Answered
    """The conversation or text up to the answer, with an empty completion where it is a text."""
    text: str
    """What was asked last, for people."""
    ids: list[int]
    """The prompt's tokens."""
    reference: str | None
    labelled: "LabelledRow | None"
    """The whole row with its mask; None without an answer."""
    row: Row
    words: tuple[str, ...] = ()
    """Label words, of which the answer is one."""
    word_ids: "WordIds | None" = None

    @property
    def length(self) -> int:
        """Tokens that a model has to read: the whole row, or the prompt and one more."""
        return max(len(self.ids) + 1, len(self.labelled[0]) if self.labelled else 0)

    def answered(self, completion: str) -> Answered:
        """The conversation, or the text, with this completion."""
        if isinstance(self.asked, Conversation):
            return replace(self.asked, messages=(*self.asked.messages, Message("assistant", completion)))
        return PromptCompletion(self.asked.prompt, completion)


@dataclass(frozen=True, slots=True)
class Questions:
    """All of them, and how a model is asked."""

    tokenizer: "PreTrainedTokenizerBase"
    template: "Template | None"
    stops: tuple[int, ...]
    source: str
    rows: list[Question] = field(default_factory=list)
    left_out: int = 0
    """Rows that have no answer that is wanted, and those that are longer than the model can read."""
    are_texts: bool = False
    """Nothing is asked: the rows are sequences of texts, of which only the likelihood can be measured."""

    @property
    def references(self) -> list[tuple[str, ...]]:
        """The answers that are wanted."""
        return [() if row.reference is None else (row.reference,) for row in self.rows]


def questions_of(recipe: "EvalRecipe", found: Found, say: Say) -> Questions:
    """The rows of the recipe, or those that the run held out, as its tokenizer and template have them.

    Raises DataError for rows that ask nothing, and where there are none.
    """
    from ftune.data.template import choose_template
    from ftune.models.load import load_tokenizer, locate_model

    beside = Path(found.folder)
    own = beside.is_dir() and (beside / "tokenizer_config.json").is_file()
    with told_of(found.path):
        tokenizer = (
            load_tokenizer(str(beside.resolve()))
            if own
            else load_tokenizer(locate_model(found.base or found.folder), revision=found.revision)
        )
    named = recipe.chat_template
    template = choose_template(tokenizer, named) if named or tokenizer.chat_template else None
    rows, left_out = meant_rows(recipe, found, say)
    texts = [meant for meant in rows if isinstance(meant.example, Text)]
    positions = _positions(found)
    if len(texts) == len(rows):
        made = Questions(
            tokenizer, template, stop_ids(tokenizer, template), _source(rows), [], left_out, are_texts=True
        )
        encoder = RowTokenizer(tokenizer, template, mask="last")
        for row, labelled in _sequences(recipe, found, rows, positions, encoder, say):
            text = str(tokenizer.decode(labelled[0], skip_special_tokens=True))
            made.rows.append(Question(PromptCompletion("", ""), text, [], None, labelled, row))
        say.line("texts without a question: their likelihood is measured, and nothing is completed")
        return made
    if texts:
        say.line(f"{several(len(texts), 'row')} left out: a text without a question, where others have one")
        rows, left_out = [meant for meant in rows if not isinstance(meant.example, Text)], left_out + len(texts)
    try:
        questions = _asked(rows, tokenizer, template, left_out)
    except DataError as error:  # what reads rows names the key that training has for it
        raise DataError(str(error).replace("model.chat_template", "chat_template")) from error
    return _readable(questions, positions, say)


def _positions(found: Found) -> int | None:
    """How many tokens the model can read; None where it does not say."""
    from ftune.models.load import load_config, locate_model

    section = section_of(found)
    with told_of(found.path):
        remote_code = section.trust_remote_code
        config = load_config(locate_model(section.path), revision=section.revision, trust_remote_code=remote_code)
    positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions


def _readable(questions: Questions, positions: int | None, say: Say) -> Questions:
    """Without the rows that the model cannot read, which would score something else than what it has learned."""
    if positions is None:
        return questions
    rows = [row for row in questions.rows if row.length <= positions]
    left_out = len(questions.rows) - len(rows)
    if left_out:
        first = next(row for row in questions.rows if row.length > positions)
        words = (
            f"{left_out:,} of {len(questions.rows):,} rows are longer than the {positions:,} tokens that the model can "
            f"read, first {first.row.origin} with {first.length:,}"
        )
        if not rows:
            raise DataError(f"rows: {words}; give shorter ones")
        say.warning(f"{words}; they are left out")
    return replace(questions, rows=rows, left_out=questions.left_out + left_out)


def _sequences(
    recipe: "EvalRecipe",
    found: Found,
    rows: list[Meant],
    positions: int | None,
    encoder: RowTokenizer,
    say: Say,
) -> Iterator[tuple[Row, "LabelledRow"]]:
    """Texts as they are trained on. Of a text a run may have held out a part alone, so its own sequences count."""
    if (held_out := held_out_sequences(recipe, found, say)) is not None:
        places = {row.origin: row for row, *_ in rows}
        for number, origin in enumerate(held_out.origins):
            if origin in places:  # else it is over the recipe's limit
                yield places[origin], (held_out.ids(number), held_out.labels(number))
        return
    longest = min((limit for limit in (longest_text(found), positions) if limit), default=None)
    for row, example, _ in rows:
        try:
            whole = encoder.encode(example)
        except DataError as error:
            raise DataError(f"{row.origin}: {error}") from None
        fits = longest is None or len(whole.input_ids) <= longest
        for piece in [whole] if fits else pieces_of(whole, longest or 0):
            yield row, (piece.input_ids, piece.labels)


def _source(rows: list[Meant]) -> str:
    """The files of the rows, in words."""
    files = list(dict.fromkeys(meant.row.file for meant in rows))
    return f"{files[0]} and {several(len(files) - 1, 'more file')}" if len(files) > 1 else files[0]


def _asked(
    rows: list[Meant], tokenizer: "PreTrainedTokenizerBase", template: "Template | None", left_out: int
) -> Questions:
    """Rows as questions. Raises DataError for rows that ask nothing."""
    encoder = RowTokenizer(tokenizer, template, mask="last")
    found = Questions(tokenizer, template, stop_ids(tokenizer, template), _source(rows), left_out=left_out)
    for row, example, words in rows:
        try:
            question = _question(example, row, encoder, tokenizer)
            if words and question.labelled:
                from ftune.data.tasks.word_ids import word_ids

                question = replace(question, words=words, word_ids=word_ids(encoder, question.asked, words))
        except DataError as error:
            raise DataError(f"{row.origin}: {error}") from None
        found.rows.append(question)
    return found


def _question(example: Plain, row: Row, encoder: RowTokenizer, tokenizer: "PreTrainedTokenizerBase") -> Question:
    if isinstance(example, Conversation) and example.messages[-1].role == "assistant":
        asked = replace(example, messages=example.messages[:-1])
        return _with_answer(asked, _last_asked(asked.messages), example, row, encoder, tokenizer)
    if isinstance(example, PromptCompletion) and example.completion:
        return _with_answer(replace(example, completion=""), example.prompt, example, row, encoder, tokenizer)
    if isinstance(example, PromptCompletion) or (isinstance(example, Conversation) and _last_asked(example.messages)):
        return _without_answer(example, row, encoder)
    raise DataError("is no question with one answer; rows need a prompt with a completion, or a last assistant turn")


def _with_answer(
    asked: Answered,
    text: str,
    example: Answered,
    row: Row,
    encoder: RowTokenizer,
    tokenizer: "PreTrainedTokenizerBase",
) -> Question:
    tokens = encoder.encode(example)
    if not tokens.trained:
        raise DataError("its last answer is marked as not to be trained, so that none is wanted; remove the row")
    start = next(place for place, label in enumerate(tokens.labels) if label != IGNORED)
    answer = example.completion if isinstance(example, PromptCompletion) else example.messages[-1].content
    if isinstance(example, Conversation) and example.messages[-1].tool_calls:
        written = tokens.input_ids[start : tokens.answers[-1].end - 1]  # what the template makes of calls, no stop
        answer = str(tokenizer.decode(written, skip_special_tokens=True)).strip()
    return Question(asked, text, tokens.input_ids[:start], answer, (tokens.input_ids, tokens.labels), row)


def _without_answer(example: Answered, row: Row, encoder: RowTokenizer) -> Question:
    """The prompt is what comes before any answer."""
    if isinstance(example, Conversation):
        text, tried = (
            _last_asked(example.messages),
            replace(example, messages=(*example.messages, Message("assistant", "a"))),
        )
        tokens = encoder.encode(tried)
    else:
        text = example.prompt
        tokens = encoder.encode(PromptCompletion(example.prompt, "a"))
    start = next(place for place, label in enumerate(tokens.labels) if label != IGNORED)
    return Question(example, text, tokens.input_ids[:start], None, None, row)


def _last_asked(messages: Sequence[Message]) -> str:
    return next((message.content for message in reversed(messages) if message.role == "user"), "")
