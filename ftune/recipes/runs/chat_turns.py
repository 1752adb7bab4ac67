"""A chat: what was said, what the model is given of it, and its replies."""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from ftune.core.errors import DataError, StorageError
from ftune.core.paths import expanded, shown
from ftune.core.say import Say
from ftune.data.example import Answered, Conversation, Message, PromptCompletion
from ftune.data.tokenize import RowTokenizer
from ftune.recipes.runs.chat_model import Opened
from ftune.recipes.runs.chat_reply import Reply, Told, write_reply
from ftune.recipes.runs.chat_sampling import Sampling


class Chat:
    """One conversation with a model. Of a model without a template nothing is remembered: it continues each text."""

    def __init__(self, opened: Opened, sampling: Sampling, say: Say, *, system: str = "", seed: int | None) -> None:
        """Without a `seed`, replies are drawn anew each time. Raises DataError for a system text without a place."""
        self.opened = opened
        self.sampling = sampling
        self.turns: list[Message] = []
        self._say = say
        self._rows = RowTokenizer(opened.tokenizer, opened.template, mask="last")
        self._seeds = random.Random(seed)  # noqa: S311 - no secrets
        self._system = ""
        self.system = system

    @property
    def system(self) -> str:
        """What stands before the first turn."""
        return self._system

    @system.setter
    def system(self, text: str) -> None:
        if text and self.opened.template is None:
            raise DataError("a system text needs a chat template, and texts are continued as they are")
        self._system = text

    def draw_seed(self) -> int:
        """For the next reply."""
        return self._seeds.getrandbits(32)

    def ask(self, question: str, told: Told) -> Reply:
        """The reply to what the user says next; both are kept. After an error all is as it was."""
        return self._reply([*self.turns, Message("user", question)], told)

    def ask_again(self, told: Told) -> Reply:
        """Another reply to the last question, in the place of the one there is. Raises DataError without a question."""
        return self._reply(self._up_to_question(), told)

    def compare(self, question: str = "") -> list[tuple[str, Reply]]:
        """What base and tuned model say to the last question, or to a new one, with the same seed.

        A new question is kept with what the model in use says; the last one keeps the reply that it has.
        """
        turns = [*self.turns, Message("user", question)] if question else self._up_to_question()
        asked, seed, speaker = self.asked(turns), self.draw_seed(), self.opened.speaker
        replies: list[tuple[str, Reply]] = []
        for name, entered in self.opened.sides():
            with entered as model:
                reply = self.answer(asked, _untold, seed, model)
            replies.append((name, reply))
            if reply.stop == "interrupted":
                return replies
            if question and name == speaker:
                self._keep(turns, reply)
        return replies

    def asked(self, turns: Sequence[Message]) -> Answered:
        """These turns as the model is asked them."""
        if self.opened.template is None:
            return PromptCompletion(turns[-1].content, "")
        return Conversation((*((Message("system", self.system),) if self.system else ()), *turns))

    def answer(self, asked: Answered, told: Told, seed: int, model: Any = None) -> Reply:
        """The reply of the model in use, or of `model`; nothing is kept. Raises DataError for what is too long."""
        prompt, longest = self.fitted(asked)
        return write_reply(
            model or self.opened.switch.model,
            self.opened.tokenizer,
            prompt,
            stops=self.opened.stops,
            sampling=replace(self.sampling, max_new_tokens=longest),
            seed=seed,
            told=told,
        )

    def save(self, path: Path) -> int:
        """Add the conversation to a file of JSON lines, as a row to train on; which line it is.

        Raises DataError where there is none yet, StorageError.
        """
        if not self.turns:
            raise DataError("there is nothing to save yet")
        system = [Message("system", self.system)] if self.system else []
        row = {"messages": [{"role": turn.role, "content": turn.content} for turn in [*system, *self.turns]]}
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            with expanded(path).open("a+b") as file:
                if file.tell() and _last_byte(file) != b"\n":  # a row of its own, also behind one that was cut off
                    line = b"\n" + line
                file.write(line)
                file.seek(0)
                return sum(1 for _ in file)
        except OSError as error:
            raise StorageError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None

    def _up_to_question(self) -> list[Message]:
        if not self.turns:
            raise DataError("there is no question yet")
        return self.turns[:-1]

    def _reply(self, turns: list[Message], told: Told) -> Reply:
        reply = self.answer(self.asked(turns), told, self.draw_seed())
        if reply.text or reply.stop != "interrupted":
            self._keep(turns, reply)
        return reply

    def _keep(self, turns: list[Message], reply: Reply) -> None:
        said = [*turns, Message("assistant", reply.text)]
        self.turns = said if self.opened.template else said[-2:]

    def fitted(self, asked: Answered) -> tuple[list[int], int]:
        """The prompt in tokens, and how long the reply may be.

        The oldest turns are left out where there would be no room for a reply, or for one of a quarter of what the
        model can read. DataError where not even the last question fits, or a text is none.
        """
        _check_characters(asked)
        ids, wanted, room = self._rows.prompt_ids(asked), self.sampling.max_new_tokens, self.opened.room
        if not ids:
            raise DataError("the prompt is empty")
        if room is None:
            return ids, wanted
        dropped = 0
        while len(ids) > room - min(wanted, room // 4) and (shorter := _without_oldest(asked)):
            dropped += len(asked.messages) - len(shorter.messages) if isinstance(asked, Conversation) else 0
            asked, ids = shorter, self._rows.prompt_ids(shorter)
        if len(ids) >= room:
            raise DataError(f"the prompt has {len(ids):,} tokens and the model can read {room:,}; shorten it")
        if dropped:
            self._say.warning(f"the {dropped} oldest turns are left out: the model can read {room:,} tokens")
        return ids, min(wanted, room - len(ids))


def _check_characters(asked: Answered) -> None:
    """Raises DataError for what no tokenizer reads: halves of characters, as which Python keeps bytes that are none."""
    texts = [turn.content for turn in asked.messages] if isinstance(asked, Conversation) else [asked.prompt]
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise DataError("the text holds bytes that are not UTF-8; write it again in UTF-8") from None


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _without_oldest(asked: Answered) -> Conversation | None:
    """The conversation from its second question on, after its system text; None where it has but one."""
    if not isinstance(asked, Conversation):
        return None
    system = [message for message in asked.messages[:1] if message.role == "system"]
    questions = [place for place, message in enumerate(asked.messages) if message.role == "user"]
    if len(questions) < 2:
        return None
    return replace(asked, messages=(*system, *asked.messages[questions[1] :]), prompt_turns=0)


def _untold(text: str) -> None:
    """Of a reply that is shown when it is whole."""
