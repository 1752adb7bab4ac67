"""What a chat completions service answers, down to the choice in its last line."""

import json
import re

from ftune.judges.orders import Choice

HOW_TO_REPLY = (
    "Compare the answers in a few sentences. Then end with one line that holds nothing but your verdict: "
    "'Verdict: A', 'Verdict: B' or 'Verdict: tie'."
)
REMINDER = "Your last line has to be 'Verdict: A', 'Verdict: B' or 'Verdict: tie'. Reply with that line alone."

_MARKS = r"[\s*_`'\"().\[\]]*"
_LINE = re.compile(rf"{_MARKS}verdict{_MARKS}:{_MARKS}(a|b|tie){_MARKS}", re.IGNORECASE)
_CHOICES: dict[str, Choice] = {"a": "first", "b": "second", "tie": "tie"}


def reply_of(content: bytes) -> str:
    """The text of the first choice in the answer; empty where the answer has no such thing."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return text if isinstance(text, str) else ""


def choice_of(reply: str) -> Choice:
    """The verdict in the last line that is not blank, in any case and between any quotes or stars; else None.

    Verdicts further up are not looked for: what is quoted or weighed there need not be what the judge ended with.
    """
    lines = reply.strip().splitlines()
    found = _LINE.fullmatch(lines[-1]) if lines else None
    return _CHOICES[found[1].lower()] if found else None
