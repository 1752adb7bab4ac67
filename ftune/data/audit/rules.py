"""Every kind of finding: how grave it is, what it is called, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ftune.data.audit.report import Finding, Severity

PLACES = 5
"""So many places of a finding are kept."""


class Rule(NamedTuple):
    """One kind of finding."""

    severity: Severity
    what: str
    todo: str


RULES: dict[str, Rule] = {
    "nothing_kept": Rule("error", "rows read, and none of them kept", "Look at the causes; nothing is left to train."),
    "refused": Rule(
        "error", "faults for which training would not start", "Correct the files or the recipe, as the warnings say."
    ),
    "bad_rows": Rule(
        "error",
        "rows that cannot be used and end a run",
        "Correct them, or set 'data.on_bad_row: drop' to leave them out.",
    ),
    "bad_rows_dropped": Rule(
        "warn", "rows that cannot be used and are left out", "Look at the causes; correct the rows or the columns."
    ),
    "leaked": Rule(
        "error",
        "held-out rows that are in train too",
        "Remove them from one side: the held-out loss would measure memory.",
    ),
    "leaked_normalised": Rule(
        "error", "held-out rows that are in train too, but for case and blanks", "Remove them from one side."
    ),
    "near_leaked": Rule(
        "warn", "held-out rows with a near duplicate in train", "Look at them, and remove them from one side."
    ),
    "duplicates": Rule(
        "warn", "exact duplicates of an earlier row", "Remove them: each repetition trains its row once more."
    ),
    "duplicates_normalised": Rule(
        "warn",
        "duplicates of an earlier row but for case and blanks",
        "Remove them, or see why they were written twice.",
    ),
    "near_duplicates": Rule(
        "warn",
        "near duplicates of an earlier row",
        "Look at some of them; remove those that say nothing new.",
    ),
    "secrets": Rule(
        "error",
        "rows that seem to hold a key, token or password",
        "Remove them and revoke the keys: a model can repeat them.",
    ),
    "emails": Rule("info", "rows with an e-mail address", "Replace them where they belong to real people."),
    "empty_answers": Rule("warn", "rows with an empty answer", "Remove them: the model would learn to stop at once."),
    "truncated": Rule(
        "warn",
        "rows that max_length cuts within an answer",
        "Raise 'data.max_length', or set 'data.on_long_row: drop': the model would not learn to end these.",
    ),
    "too_long": Rule(
        "warn",
        "rows longer than max_length and left out",
        "Raise 'data.max_length', or set 'data.on_long_row: truncate'.",
    ),
    "long_rows": Rule(
        "warn",
        "rows far longer than the others",
        "Cut or remove them: one such row decides how much memory a step needs.",
    ),
    "skipped": Rule("info", "rows that are right but of no use", "Nothing, where the causes are as you expect."),
    "roles_repeated": Rule(
        "warn", "rows with two turns of one speaker in a row", "Join the turns, or see whether one is missing."
    ),
    "roles_first": Rule(
        "warn", "rows that do not begin with a user turn", "Add the user's turn, or make the first one a system turn."
    ),
    "roles_last": Rule(
        "warn",
        "rows that do not end with an assistant turn",
        "Add the answer, or remove what follows the last one: it is never trained.",
    ),
    "roles_system_late": Rule(
        "warn", "rows with a system turn that is not the first", "Move it to the front: many chat templates refuse it."
    ),
    "tools_unasked": Rule(
        "warn", "rows with a tool's answer that no call asked for", "Add the call before it, or remove the turn."
    ),
    "equal_sides": Rule(
        "warn", "pairs whose chosen and rejected answers are equal", "Remove them: they teach nothing."
    ),
    "prompts_differ": Rule(
        "warn", "pairs whose sides answer different prompts", "Remove them: the answers cannot be compared."
    ),
    "control_text": Rule(
        "warn",
        "rows with control tokens written in their text",
        "Remove them: in chats they become plain text, which the model may then write.",
    ),
    "replacement_characters": Rule(
        "warn", "rows with U+FFFD, which stands for lost characters", "Read the source again in its true encoding."
    ),
    "mojibake": Rule(
        "warn", "rows with UTF-8 that was read as Latin-1, such as 'Ã©'", "Read the source again as UTF-8."
    ),
    "control_characters": Rule("warn", "rows with invisible control characters", "Remove the characters."),
    "html_entities": Rule(
        "info", "rows with HTML entities, such as '&amp;'", "Unescape them, unless the rows are about HTML."
    ),
    "other_answers": Rule(
        "info", "rows whose prompt has another answer elsewhere", "Nothing, where several answers are right."
    ),
    "one_sided": Rule(
        "warn",
        "rows with the most frequent label, nine tenths or more",
        "Add rows of the other labels, or take fewer of it.",
    ),
    "longer_chosen": Rule(
        "info",
        "pairs whose chosen answer is the longer one",
        "Far from half, a reward model learns length: compare with a baseline that only counts characters.",
    ),
}


@dataclass(slots=True)
class Tally:
    """A count with the first places."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.places) < PLACES:
            self.places.append(place)


def finding(id: str, count: int, places: Sequence[str] = ()) -> Finding:
    """The finding of this kind; `id` is a key of `RULES`."""
    rule = RULES[id]
    return Finding(id, rule.severity, count, rule.what, rule.todo, tuple(places[:PLACES]))
