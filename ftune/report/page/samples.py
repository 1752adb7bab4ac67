"""Samples side by side: what was asked, what was wanted, and what each model said, with the differences marked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from ftune.report.curves import short
from ftune.report.markdown import private
from ftune.report.page.titles import LESS_TELLING, metric_title
from ftune.report.run_record import RunRecord, finite

LONGEST = 1200
"""Characters of a text that are shown."""

ALIKE = 0.3
"""Texts that share less than this are not marked word by word: nearly every word would be."""

WORD = r"\w+|[^\w\s]"
MOST_WORDS = 400
"""Longer texts are not compared."""

OWN_KEYS = ("row", "prompt", "reference", "scores", "completions")

OF_THE_REFERENCE = ("loss", "perplexity", "token_accuracy")
"""Scores that say nothing of the text that they would stand below."""

MOST_SCORES = 8


class Piece(NamedTuple):
    """A part of a text, and whether it differs from what it is compared with."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Answer:
    """What one model said."""

    name: str
    pieces: Sequence[Piece]
    remark: str
    """Such as: the same as the reference."""
    scores: str


@dataclass(frozen=True)
class Sample:
    """One prompt and its answers."""

    row: str
    prompt: str
    reference: str
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Samples:
    """Those that are shown, and how they were chosen, in words."""

    shown: Sequence[Sample]
    chosen: str


def samples_of(run: RunRecord, most: int) -> Samples | None:
    """At most `most` samples: of `ftune eval` where there are any, else those that the run itself has left."""
    if rows := run.rows("eval/samples.jsonl"):
        picked, chosen = _spread(rows, most)
        return Samples([_evaluated(row) for row in picked], chosen)
    if run.iterates and (pairs := _first_and_last(run.rows("samples.jsonl"))):
        picked, chosen = _spread(pairs, most)
        return Samples([_evaluated(row) for row in picked], chosen)
    if rows := run.rows("pairs.jsonl"):
        told = "The held-out pairs that the model tells most wrongly come first."
        return Samples(
            [_pair(row) for row in rows[:most]], f"{len(rows[:most])} of {len(rows):,} held-out pairs. {told}"
        )
    return None


def _spread(rows: list[dict[str, Any]], most: int) -> tuple[list[dict[str, Any]], str]:
    """Rows from the whole file, equally far apart: nobody has picked the good ones."""
    if len(rows) <= most:
        return rows, f"All {len(rows):,} rows." if len(rows) > 1 else ""
    picked = [rows[number * len(rows) // most] for number in range(most)]
    return picked, f"{most} of {len(rows):,} rows, evenly spread over the file."


def _evaluated(row: dict[str, Any]) -> Sample:
    """A row of `samples.jsonl`: completions by model under `completions`, or under their names beside the others."""
    completions = row.get("completions")
    if not isinstance(completions, dict):
        completions = {key: value for key, value in row.items() if key not in OWN_KEYS}
    texts = {str(name): _cut(text) for name, text in completions.items() if isinstance(text, str)}
    reference = _cut(row["reference"]) if isinstance(row.get("reference"), str) else ""
    against = reference or next(iter(texts.values()), "")
    scores = row.get("scores") if isinstance(row.get("scores"), dict) else {}
    answers = [
        _answer(
            name, text, against, _scores(scores.get(name) if scores else None), is_base=not reference and not number
        )
        for number, (name, text) in enumerate(texts.items())
    ]
    return Sample(str(row.get("row") or ""), _cut(row.get("prompt") or ""), reference, answers)


def _first_and_last(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The held-out prompts of PPO as the first policy completed them and as the last one did."""
    held_out = [row for row in rows if row.get("when") == "held-out" and isinstance(row.get("iteration"), int)]
    if not held_out:
        return []
    first, last = held_out[0]["iteration"], held_out[-1]["iteration"]
    found: dict[str, dict[str, Any]] = {}
    for row in held_out:
        if row["iteration"] in (first, last):
            name = f"iteration {row['iteration']}"
            sample = found.setdefault(str(row.get("row")), {**row, "completions": {}, "scores": {}})
            if name not in sample["completions"]:
                sample["completions"][name] = row.get("completion")
                sample["scores"][name] = {"score": row.get("score"), "KL": row.get("kl")}
    return list(found.values())


def _pair(row: dict[str, Any]) -> Sample:
    """A preference: the turns that both answers share are the prompt."""
    chosen, rejected = str(row.get("chosen") or ""), str(row.get("rejected") or "")
    shared = next((at for at, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    shared = max(chosen.rfind(end, 0, shared) + 1 for end in "\n ") if shared else 0
    answers = [
        _answer(name, _cut(text[shared:]), "", _scores({"score": row.get(f"{name}_score")}), is_base=True)
        for name, text in (("chosen", chosen), ("rejected", rejected))
    ]
    return Sample(str(row.get("row") or ""), _cut(chosen[:shared]), "", answers)


def _answer(name: str, text: str, against: str, scores: str, *, is_base: bool) -> Answer:
    remark = "empty" if not text.strip() else ""
    if is_base or remark:
        return Answer(name, [Piece(text, differs=False)], remark, scores)
    if text.strip() == against.strip():
        return Answer(name, [Piece(text, differs=False)], "the same", scores)
    pieces = differences(text, against)
    return Answer(name, pieces or [Piece(text, differs=False)], "" if pieces else "differs", scores)


def differences(text: str, against: str) -> list[Piece]:
    """`text` in pieces, marked where its words are not those of `against` in their order.

    Empty where too little is alike, or where there are too many words to compare.
    """
    found, others = list(re.finditer(WORD, text)), re.findall(WORD, against)
    if max(len(found), len(others)) > MOST_WORDS:
        return []
    same = _shared([word.group() for word in found], others)
    if 2 * len(same) < ALIKE * (len(found) + len(others)):
        return []
    parts: list[tuple[bool, str]] = []
    end = 0
    for number, word in enumerate(found):
        differs = number not in same
        within = differs and bool(parts) and parts[-1][0]  # the space between two differing words differs too
        parts += [(within, text[end : word.start()]), (differs, word.group())]
        end = word.end()
    parts.append((False, text[end:]))
    runs = groupby((part for part in parts if part[1]), key=itemgetter(0))
    return [Piece("".join(part for _, part in run), differs) for differs, run in runs]


def _shared(words: Sequence[str], others: Sequence[str]) -> set[int]:
    """Places in `words` of the longest sequence that occurs in `others` too, in time of the product of their lengths.

    difflib needs the third power for texts that repeat themselves, as those of weak models do.
    """
    lengths = [[0] * (len(others) + 1) for _ in range(len(words) + 1)]
    for at in reversed(range(len(words))):
        row, below, word = lengths[at], lengths[at + 1], words[at]
        for other in reversed(range(len(others))):
            row[other] = below[other + 1] + 1 if word == others[other] else max(below[other], row[other + 1])
    places: set[int] = set()
    at = other = 0
    while at < len(words) and other < len(others):
        if words[at] == others[other]:
            places.add(at)
            at, other = at + 1, other + 1
        elif lengths[at + 1][other] >= lengths[at][other + 1]:
            at += 1
        else:
            other += 1
    return places


def _scores(scores: object) -> str:
    if not isinstance(scores, dict):
        return ""
    named = {
        str(name): value
        for name, each in scores.items()
        if (value := finite(each)) is not None and name not in OF_THE_REFERENCE
    }
    telling = [name for name in named if not name.endswith(LESS_TELLING)]
    return " · ".join(f"{metric_title(name)} {short(named[name])}" for name in telling[:MOST_SCORES])


def _cut(text: object) -> str:
    """A text as it is shown, without secrets: they are looked for while the text is whole."""
    whole = private(str(text))
    return whole if len(whole) <= LONGEST else f"{whole[:LONGEST]}… ({len(whole) - LONGEST:,} more characters)"
