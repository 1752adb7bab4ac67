"""The question: every place filled once, and nothing that stands in an answer taken for a place."""

import pytest
from pydantic import TypeAdapter, ValidationError

from ftune.data.example import Conversation, Message, ToolCall
from ftune.judges.base import Pair
from ftune.judges.question import QUESTION, Question, question
from tests.judges.conftest import SHORT, pair


def test_places_are_filled_once() -> None:
    made = question(SHORT, pair("{answer_b} {conversation}", "two", reference="three {answer_a}"), "Reply.")
    assert made == (
        "user: the cat?\n\n[A right answer]\nthree {answer_a}\n[End of the right answer]\n"
        "A {answer_b} {conversation}\nB two\n\nReply."
    )


def test_the_default_has_all_of_a_pair_and_no_place_left() -> None:
    turns = (Message("system", "Be brief."), Message("user", "hi"), Message("assistant", "", (ToolCall("now", {}),)))
    made = question(QUESTION, Pair(Conversation(turns), "one", "two"), "Reply.")
    assert "{" not in made.replace('{"name": "now", "arguments": {}}', "")
    assert "system: Be brief.\n\nuser: hi\n\nassistant: <tool_call>" in made
    assert made.index("[Answer A]\none\n") < made.index("[Answer B]\ntwo\n")
    assert "right answer" not in made
    assert "right answer" in question(QUESTION, pair("one", "two", reference="three"), "Reply.")


def test_raw_text_is_shown_as_it_is() -> None:
    assert question(SHORT, Pair("Once\nupon", "a", "b"), "?") == "Once\nupon\nA a\nB b\n\n?"


def test_a_question_without_its_places_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"has no {conversation} and no {answer_b}; it needs .* may have {refer"):
        TypeAdapter(Question).validate_python("Is {answer_a} good?")
