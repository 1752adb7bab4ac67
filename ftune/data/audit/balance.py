"""How often each label occurs, where the answers are labels."""

from collections import Counter
from collections.abc import Iterator

from ftune.data.audit.report import Balance, Finding
from ftune.data.audit.rules import Tally, finding
from ftune.data.audit.signs import has_secret
from ftune.data.audit.texts import Texts, texts_of
from ftune.data.example import Example, Feedback, Preference, Text

MAX_LABELS, LABEL_LENGTH, ROWS_A_LABEL = 20, 40, 5
"""Answers are labels where there are so few different ones, each so short, with so many rows to each on average."""

ONE_SIDED, ENOUGH = 0.9, 20
"""A label is too frequent from this share on, in data of at least so many rows."""


class BalanceTally:
    """Counters of labels, of judgements and of the longer side of pairs; their number is bounded."""

    def __init__(self) -> None:
        self._answers: Counter[str] = Counter()
        self._labels = True  # until an answer is met that cannot be one
        self._judged: Counter[str] = Counter()
        self._longer: Counter[str] = Counter()
        self._longer_places = Tally()

    def add(self, example: Example, texts: Texts, place: str) -> None:
        """Take one kept row."""
        match example:
            case Preference():
                self._compare(texts.answer, example, place)
            case Feedback():
                self._judged["good" if example.good else "bad"] += 1
            case Text():
                self._labels = False
            case _:
                self._count_label(texts.answer.strip())

    def balances(self) -> tuple[Balance, ...]:
        """What occurred how often, of those three that the data has."""
        named = [("answers", self._label_counts()), ("judgements", self._judged), ("longer answer", self._longer)]
        return tuple(Balance(name, tuple(counts.most_common())) for name, counts in named if counts)

    def findings(self) -> Iterator[Finding]:
        """One-sided labels, and the share of pairs whose chosen answer is the longer one."""
        for counts in (self._label_counts(), self._judged):
            frequent = max(counts.values(), default=0)
            if counts.total() >= ENOUGH and frequent >= ONE_SIDED * counts.total():
                yield finding("one_sided", frequent)
        if self._longer["chosen"]:
            yield finding("longer_chosen", self._longer["chosen"], self._longer_places.places)

    def _compare(self, chosen: str, example: Preference, place: str) -> None:
        difference = len(chosen) - len(texts_of(example.rejected).answer)
        self._longer["chosen" if difference > 0 else "rejected" if difference else "equal"] += 1
        if difference > 0:
            self._longer_places.add(place)

    def _count_label(self, answer: str) -> None:
        if not self._labels or not answer:
            return
        self._answers[answer if len(answer) <= LABEL_LENGTH else ""] += 1
        if "" in self._answers or len(self._answers) > MAX_LABELS or has_secret(answer):
            self._labels = False
            self._answers.clear()

    def _label_counts(self) -> Counter[str]:
        enough = self._answers.total() >= ROWS_A_LABEL * len(self._answers)
        return Counter({_shown(label): count for label, count in self._answers.items()} if enough else {})


def _shown(label: str) -> str:
    """The label in one line of visible characters."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in label)
