"""Which words and phrases are in a text."""

import pytest

from ftune.rewards.words import WordFinder


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("cat", "The cat.", True),
        ("cat", "cats and concatenation", False),
        ("cat", "CAT", True),
        ("thank you", "Thank you!", True),
        ("thank you", "thank  you", False),
        ("c++", "C++ is a language", True),
        ("don't", "I don't", True),
        ("Straße", "STRASSE", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("猫", "黒猫が座った", True),
        (":)", "well:)", True),
        (" cat ", "cat", True),
        ("кот", "коты", False),
    ],
)
def test_words_are_found_as_wholes(word: str, text: str, found: bool) -> None:
    assert bool(WordFinder([word])(text)) is found


def test_capitals_matter_on_request() -> None:
    assert WordFinder(["Cat"], case=True)("Cat cat") == {"Cat"}
    assert not WordFinder(["Cat"], case=True)("cat")


def test_each_word_counts_once() -> None:
    assert WordFinder(["a cat", "cat", "cat", "dog"])("a cat, a cat") == {"a cat", "cat"}
