"""Many questions to one service, several at once, until all have an answer or the service has stopped to answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from ftune.core.post import NoAnswerError, Service
from ftune.judges.base import Progress
from ftune.judges.orders import Choice
from ftune.judges.replies import REMINDER, choice_of, reply_of

PATIENCE = 2
"""So many rounds of questions may end without any answer before no more are asked."""

MISSING = "has no usable answer for some pairs, which count as missing"
STOPPED = "is asked no more, and all further pairs count as missing"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the row that it is about."""

    text: str
    origin: str


@dataclass(slots=True)
class Asker:
    """Asks one service. What it has learned about the service holds for later questions too."""

    name: str
    service: Service
    settings: Mapping[str, object]
    """What is sent beside the messages."""
    concurrency: int
    remark: Callable[[str], None]
    _heard: bool = False
    """Whether any question has been answered."""
    _unanswered: int = 0
    """Questions without an answer since the last one with one."""
    _failure: str = ""
    """The first reason why a question has no usable answer."""
    _given_up: str = ""
    """Why no more are asked."""
    _told: set[str] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def choices(self, questions: Sequence[Asked], progress: Progress) -> list[Choice]:
        """The choice for each question, in order; None for those without a usable answer, of which one is remarked."""
        from concurrent.futures import ThreadPoolExecutor, as_completed

        self.service.closed.clear()
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            futures = [pool.submit(self._choice, question) for question in questions]
            for done, _ in enumerate(as_completed(futures), start=1):
                progress(done)
        except BaseException:
            self.service.closed.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        self._tell()
        return [future.result() for future in futures]

    def _choice(self, question: Asked) -> Choice:
        if self._given_up or self.service.closed.is_set():
            return None
        try:
            choice, reply = self._answered(question.text)
        except NoAnswerError as error:
            self._unheard(f"{question.origin}: it {error}", lasting=error.lasting)
            return None
        with self._lock:
            self._heard, self._unanswered = True, 0
            if choice is None:
                self._failure = self._failure or f"{question.origin}: no verdict in '{self.service.shown(reply)}'"
        return choice

    def _answered(self, question: str) -> tuple[Choice, str]:
        """The choice, and the reply's last line or an answer that holds no reply.

        A reply without a choice is sent back once, with a word about form.
        """
        asked = {"role": "user", "content": question}
        turns = [asked]
        for _ in range(2):
            answer = self.service.post({**self.settings, "messages": turns})
            reply = reply_of(answer)
            if choice := choice_of(reply):
                break
            if reply:
                turns = [asked, {"role": "assistant", "content": reply}, {"role": "user", "content": REMINDER}]
        return choice, reply.rstrip().rpartition("\n")[2] or answer.decode(errors="replace")

    def _unheard(self, failure: str, *, lasting: bool) -> None:
        with self._lock:
            self._failure = self._failure or failure
            self._unanswered += 1
            if (lasting and not self._heard) or self._unanswered >= PATIENCE * self.concurrency:
                self._given_up = self._given_up or failure

    def _tell(self) -> None:
        """Say the first failure, and the end of all asking, once each."""
        what, why = (STOPPED, self._given_up) if self._given_up else (MISSING, self._failure)
        if why and what not in self._told:
            self._told.add(what)
            self.remark(f"judge '{self.name}' {what}; {why}")
