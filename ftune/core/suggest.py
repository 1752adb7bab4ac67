"""Did-you-mean, in one place."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known word, or the whole list when nothing is close.

    Returns an empty string when nothing is known.
    """
    choices = [str(choice) for choice in known]
    letters = sorted(word.lower())
    if turned := [choice for choice in choices if sorted(choice) == letters]:  # two letters in the wrong order
        return f"; did you mean '{turned[0]}'?"
    if close := get_close_matches(word.lower(), choices, n=1, cutoff=0.6):
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(choices))}" if choices else ""
