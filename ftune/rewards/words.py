"""Words and phrases in a text, found as wholes and in any script."""

import re
from collections.abc import Iterable
from functools import cache
from unicodedata import normalize


class WordFinder:
    """Finds which of its words and phrases occur in a text.

    A word is found as a whole: "cat" is not in "cats". Words of scripts that put no blanks between words, such as
    Chinese or Thai, are found anywhere. Composed and decomposed letters are the same.
    """

    def __init__(self, words: Iterable[str], *, case: bool = False) -> None:
        """With `case`, capitals matter."""
        self._case = case
        self._words = frozenset(self._plain(word.strip()) for word in words)

    def __call__(self, text: str) -> set[str]:
        """The words that occur, each once however often it does."""
        plain = self._plain(text)
        return {word for word in self._words if word in plain and _whole(word).search(plain)}  # `in` is far faster

    def _plain(self, text: str) -> str:
        text = normalize("NFC", text)
        return text if self._case else normalize("NFC", text.casefold())


@cache
def _whole(word: str) -> re.Pattern[str]:
    """The word with no letter before or after it, where its own first or last sign is one of a spaced script."""
    before, after = (r"(?<!\w)" if _SPACED.match(word[0]) else ""), (r"(?!\w)" if _SPACED.match(word[-1]) else "")
    return re.compile(before + re.escape(word) + after)


_SPACED = re.compile(r"(?![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])\w")
"""A letter, digit or underscore but those of Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
