"""The rows of an evaluation, as what is asked and what is wanted."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.errors import DataError
from ftune.core.say import Say
from ftune.data.example import Answered, Conversation, Message, PromptCompletion, Text
from ftune.data.row import Row
from ftune.data.source import strict
from ftune.data.stops import stop_ids
from ftune.data.tokenize import IGNORED, RowTokenizer
from ftune.merge.sources import Found, told_of
from ftune.recipes.runs.found_model import section_of
from ftune.report.run_folder import read_command

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftune.data.formats.base import RowFormat
    from ftune.data.tasks.word_ids import WordIds
    from ftune.data.template import Template
    from ftune.evals.perplexity import LabelledRow
    from ftune.recipes.eval import EvalRecipe
    from ftune.recipes.training import TrainingRecipe


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
    """Rows that are longer than the model can read."""

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
    rows, format = _rows(recipe, found, say)
    try:
        questions = understood_rows(_limited(rows, recipe), format, tokenizer, template, recipe.seed)
    except DataError as error:  # what reads rows names the key that training has for it
        raise DataError(str(error).replace("model.chat_template", "chat_template")) from error
    return _readable(questions, _positions(found), say)


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
    return replace(questions, rows=rows, left_out=left_out)


def judged_rows(recipe: "EvalRecipe", found: Found, say: Say) -> tuple[list[Row], "RowFormat | None"]:
    """Rows with verdicts or classes, for what scores them, and their layout where it is named."""
    rows, format = _rows(recipe, found, say)
    return _limited(rows, recipe), format


def _limited(rows: list[Row], recipe: "EvalRecipe") -> list[Row]:
    """As many as the recipe takes, in their order."""
    if recipe.limit is None or recipe.limit >= len(rows):
        return rows
    drawn = random.Random(recipe.seed).sample(range(len(rows)), recipe.limit)  # noqa: S311 - a draw of rows
    return [rows[place] for place in sorted(drawn)]


def _rows(recipe: "EvalRecipe", found: Found, say: Say) -> tuple[list[Row], "RowFormat | None"]:
    """Rows with their layout where it is named: the recipe's, or those that the run held out."""
    trained = _recipe_of(found)
    if recipe.rows is not None:
        return list(strict(recipe.rows.read(recipe.seed))), recipe.rows.format or (
            trained.data.format if trained else None
        )
    validation = trained.data.validation if trained else None
    if trained is None or validation is None:
        raise DataError("rows: there are no held-out rows of a run; give the rows to evaluate: rows=FILE")
    if validation.source is not None:
        source = validation.source
        return list(strict(source.read(recipe.seed))), source.format or trained.data.format
    from ftune.recipes.runs.inputs import load_inputs

    prepared = load_inputs(trained, say).validation
    held_out = set(prepared.origins) if prepared is not None else set()
    rows = [row for source in trained.data.train for row in strict(source.read(trained.seed)) if row.origin in held_out]
    formats = {source.format for source in trained.data.train} - {None}
    return rows, (formats.pop() if len(formats) == 1 else None) or trained.data.format


def _recipe_of(found: Found) -> "TrainingRecipe | None":
    """The recipe of the run that made a model, where it trained on rows."""
    from ftune.recipes.load import load_resolved
    from ftune.recipes.training import TrainingRecipe

    if found.run is None:
        return None
    recipe = load_resolved(read_command(found.run), found.run / "recipe.resolved.json")
    return recipe if isinstance(recipe, TrainingRecipe) else None


def understood_rows(
    rows: list[Row],
    format: "RowFormat | None",
    tokenizer: "PreTrainedTokenizerBase",
    template: "Template | None",
    seed: int,
) -> Questions:
    """Rows as questions. Raises DataError for rows that ask nothing."""
    from ftune.data.encode import understood

    layout, _ = understood(rows, format, tolerant=False, seed=seed)
    encoder = RowTokenizer(tokenizer, template, mask="last")
    found = Questions(tokenizer, template, stop_ids(tokenizer, template), rows[0].file)
    for row in rows:
        example: Any = layout.read(row.values)
        question = _question(example, row, encoder)
        if (words := layout.format.choices(layout.tidied(row.values))) and question.labelled:
            from ftune.data.tasks.word_ids import word_ids

            question = replace(question, words=words, word_ids=word_ids(encoder, example, words))
        found.rows.append(question)
    return found


def _question(example: Any, row: Row, encoder: RowTokenizer) -> Question:
    if isinstance(example, Conversation) and example.messages[-1].role == "assistant":
        asked = replace(example, messages=example.messages[:-1])
        return _with_answer(asked, _last_asked(asked.messages), example, example.messages[-1].content, row, encoder)
    if isinstance(example, PromptCompletion) and example.completion:
        return _with_answer(replace(example, completion=""), example.prompt, example, example.completion, row, encoder)
    if isinstance(example, PromptCompletion) or (isinstance(example, Conversation) and _last_asked(example.messages)):
        return _without_answer(example, row, encoder)
    kind = "a text without a question" if isinstance(example, Text) else "no question with one answer"
    raise DataError(f"{row.origin}: is {kind}; rows need a prompt with a completion, or a last assistant turn")


def _with_answer(
    asked: Answered, text: str, example: Answered, answer: str, row: Row, encoder: RowTokenizer
) -> Question:
    tokens = encoder.encode(example)
    start = next(place for place, label in enumerate(tokens.labels) if label != IGNORED)
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
