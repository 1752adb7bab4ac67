"""Two answers, one better; one answer, judged: every way to write it, and where the prompt ends."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Feedback, Message, Preference, PromptCompletion, Skipped
from ftune.data.formats.detect import detect
from ftune.data.formats.hh import HHFormat
from ftune.data.formats.preference import PreferenceFormat
from ftune.data.row import Row

USER = {"role": "user", "content": "Name a river."}
GOOD = {"role": "assistant", "content": "The Loire."}
BAD = {"role": "assistant", "content": "Paris."}
TIE = Skipped("a tie: no answer is better")


def parse(row):
    return detect([Row(row, "rows.jsonl", 1)]).read(row)


def layout(row):
    return detect([Row(row, "rows.jsonl", 1)]).format.type


def preference(*before, margin=None):
    """The better answer about rivers and the worse one, after these turns."""
    sides = [(*before, Message("assistant", text)) for text in ("The Loire.", "Paris.")]
    chosen, rejected = (Conversation(side, prompt_turns=len(before)) for side in sides)
    return Preference(chosen, rejected, margin)


RIVERS = preference(Message("user", "Name a river."))


@pytest.mark.parametrize("key", ["prompt", "question", "instruction"])
def test_texts_are_answers_to_the_prompt(key):
    row = {key: "Name a river.", "chosen": "The Loire.", "rejected": "Paris."}
    assert parse(row) == RIVERS
    assert detect([Row(row, "rows.jsonl", 1)]).reason == f"keys 'chosen' and 'rejected': answers to '{key}'"


def test_instruction_input_and_system_are_the_prompt():
    row = {"instruction": "Name a", "input": "river.", "output": "x", "chosen": "The Loire.", "rejected": "Paris."}
    assert layout(row) == "preference"
    wanted = preference(Message("system", "Be short."), Message("user", "Name a\n\nriver."))
    assert parse(row | {"system": "Be short."}) == wanted


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("A river: the Loire", "A river: the Lot", "A river: the"),
        ("A river: Loire", "A river:  Lot", "A river:"),
        ("A river", "A river too", "A"),
        ("A river\n\nLoire", "A river\n\nLot", "A river"),
        ("Loire", "Lot", ""),
    ],
)
def test_whole_texts_share_their_beginning_up_to_a_word_border(chosen, rejected, prompt):
    read = parse({"chosen": chosen, "rejected": rejected})
    assert read.chosen == PromptCompletion(prompt, chosen.removeprefix(prompt))
    assert read.rejected == PromptCompletion(prompt, rejected.removeprefix(prompt))


@given(st.text("ab \n", max_size=8), st.text("ab \n", max_size=8), st.text("ab \n", max_size=8))
def test_whole_texts_lose_nothing(start, one, other):
    if one != other and (start + one)[:1] == (start + other)[:1] != "":
        read = PreferenceFormat().to_example({"chosen": start + one, "rejected": start + other})
        assert read.chosen.prompt == read.rejected.prompt
        assert read.chosen.prompt + read.chosen.completion == start + one
        assert read.rejected.prompt + read.rejected.completion == start + other


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "Name a river.", "id": "1", "chosen": [USER, GOOD], "rejected": [USER, BAD], "messages": [USER]},
        {"prompt": "Name a river.", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": "The Loire.", "rejected": "Paris."},
        {"messages": [USER], "chosen": GOOD, "rejected": BAD},
        {"prompt": "Name a river.", "chosen": json.dumps([GOOD]), "rejected": repr([BAD])},
        {
            "conversations": [{"from": "human", "value": "Name a river."}],
            "chosen": {"from": "gpt", "value": "The Loire."},
            "rejected": {"from": "gpt", "value": "Paris."},
        },
    ],
)  # fmt: skip
def test_lists_of_turns_with_the_prompt_inside_or_beside(row):
    assert layout(row) == "preference_messages"
    assert parse(row) == RIVERS


def test_the_prompt_is_the_longest_common_beginning_of_turns():
    more = {"role": "user", "content": "More?"}
    read = parse({"chosen": [USER, GOOD, more, GOOD], "rejected": [USER, GOOD, more, BAD], "system": "Be short."})
    assert (read.chosen.prompt_turns, read.rejected.prompt_turns) == (4, 4)
    assert read.chosen.messages[0] == Message("system", "Be short.")


@pytest.mark.parametrize(
    ("scores", "margin"),
    [
        ({"score_chosen": 8.5, "score_rejected": 6}, 2.5),
        ({"chosen_rating": "5", "rejected_rating": "4"}, 1.0),
        ({"margin": 0.5}, 0.5),
        ({"margin": None, "score_chosen": 1}, None),
    ],
)
def test_scores_become_the_margin(scores, margin):
    assert parse({"prompt": "x", "chosen": "y", "rejected": "z", **scores}).margin == margin
    assert parse({"chosen": [USER, GOOD], "rejected": [USER, BAD], **scores}).margin == margin


def hh(*turns):
    return "".join(f"\n\n{speaker}: {text}" for speaker, text in turns)


def test_hh_dialogues_share_what_ends_at_an_assistant_mark():
    start = [("Human", "Hi!"), ("Assistant", "Hello."), ("Human", "Name a river.")]
    row = {"chosen": hh(*start, ("Assistant", "The Loire.")), "rejected": hh(*start, ("Assistant", "Paris."))}
    assert layout(row) == "hh"
    before = (Message("user", "Hi!"), Message("assistant", "Hello."), Message("user", "Name a river."))
    assert parse(row) == preference(*before)


@pytest.mark.parametrize(
    ("chosen", "rejected", "turns"),
    [
        ([("Human", "a"), ("Assistant", "")], [("Human", "a"), ("Assistant", "b")], 1),
        ([("Human", "a"), ("Human", "b"), ("Assistant", "c")], [("Human", "a"), ("Human", "b"), ("Assistant", "d")], 2),
        ([("Human", "a"), ("Assistant", "b"), ("Assistant", "c")], [("Human", "a"), ("Assistant", "b")], 1),
        ([("Human", "a"), ("Assistant", "c")], [("Human", "b"), ("Assistant", "d")], 0),
        ([("Human", "a"), ("Assistant", "c"), ("Human", "x")], [("Human", "a"), ("Assistant", "c"), ("Human", "y")], 1),
        ([("Assistant", "c")], [("Assistant", "d")], 0),
    ],
)
def test_odd_dialogues_of_hh_are_read(chosen, rejected, turns):
    read = parse({"chosen": hh(*chosen), "rejected": hh(*rejected)})
    assert read.chosen.prompt_turns == read.rejected.prompt_turns == turns
    assert [turn.content for turn in read.chosen.messages] == [text for _, text in chosen]
    assert [turn.content for turn in read.rejected.messages] == [text for _, text in rejected]


SPEECH = st.lists(st.tuples(st.sampled_from(["Human", "Assistant"]), st.sampled_from(["", "a", "b"])), max_size=4)


@given(SPEECH, SPEECH, SPEECH)
def test_the_prompt_of_hh_is_the_longest_common_text_that_ends_at_an_assistant_mark(start, one, other):
    chosen, rejected = (hh(*start, *rest) for rest in (one, other))
    if not chosen or not rejected or chosen == rejected:
        return
    mark = "\n\nAssistant:"
    ends = [end for end in range(len(chosen) + 1) if chosen[:end].endswith(mark) and rejected.startswith(chosen[:end])]
    read = HHFormat().to_example({"chosen": chosen, "rejected": rejected})
    prompt = hh(*((turn.role.replace("user", "Human").replace("assistant", "Assistant"), turn.content)
                  for turn in read.chosen.messages[: read.chosen.prompt_turns]))  # fmt: skip
    assert (prompt + mark if ends else prompt) == chosen[: max(ends, default=0)]


def test_hh_with_the_prompt_apart():
    row = {"prompt": "\n\nHuman: Name a river.\n\nAssistant:", "chosen": "The Loire.", "rejected": " Paris."}
    assert layout(row) == "hh"
    assert parse(row) == RIVERS


@pytest.mark.parametrize("winner", ["model_a", "A", " a", "response_a"])
def test_a_winner_by_name(winner):
    row = {"prompt": "Name a river.", "response_a": "The Loire.", "response_b": "Paris.", "winner": winner}
    assert layout(row) == "two_answers"
    assert parse(row) == RIVERS
    assert parse({**row, "winner": winner.replace("a", "b").replace("A", "B")}) == Preference(
        RIVERS.rejected, RIVERS.chosen
    )


def test_arena_conversations_share_their_prompt():
    row = {"conversation_a": [USER, BAD], "conversation_b": [USER, GOOD], "winner": "model_b", "turn": 1}
    assert parse(row) == RIVERS
    assert parse({**row, "winner": "tie (bothbad)"}) == TIE


@pytest.mark.parametrize(
    ("answers", "first", "second", "tie"),
    [
        (("response_0", "response_1"), {"better_response_id": 0}, {"better_response_id": 1}, None),
        (("output_1", "output_2"), {"preference": 1}, {"preference": 2.0}, {"preference": 1.5}),
        (("human_ref_A", "human_ref_B"), {"labels": 1}, {"labels": "0"}, None),
    ],
)
def test_a_winner_by_number(answers, first, second, tie):
    row = {"prompt": "Name a river.", answers[0]: "The Loire.", answers[1]: "Paris."}
    assert parse(row | first) == RIVERS
    assert parse(row | second) == Preference(RIVERS.rejected, RIVERS.chosen)
    if tie:
        assert parse(row | tie) == TIE


def test_two_scores():
    row = {"question": "Name a river.", "answer_0": "Paris.", "answer_1": "The Loire."}
    assert parse(row | {"score_0": "-0.5", "score_1": 1}) == preference(Message("user", "Name a river."), margin=1.5)
    assert parse(row | {"score_0": 1, "score_1": 1.0}) == TIE


def test_the_history_of_shp_is_the_prompt():
    row = {"history": "Name a river.", "human_ref_A": "The Loire.", "human_ref_B": "Paris.", "labels": 1, "score_A": 9}
    assert parse(row) == RIVERS


@pytest.mark.parametrize(("label", "good"), [(True, True), (0, False), ("true", True), ("False", False), ("1", True)])
def test_kto_has_a_judgement_of_the_last_answer(label, good):
    row = {"messages": [USER, GOOD], "label": label}
    assert layout(row) == "kto"
    assert parse(row) == Feedback(RIVERS.chosen, good)
    raw = {"prompt": "A river:", "completion": " Loire", "label": label}
    assert parse(raw) == Feedback(PromptCompletion("A river:", " Loire"), good)
    assert parse({"prompt": [USER], "completion": [GOOD], "label": label}) == Feedback(RIVERS.chosen, good)


@pytest.mark.parametrize("label", [None, "good", 2, 1.0])
def test_other_labels_are_no_judgement(label):
    assert layout({"messages": [USER, GOOD], "label": label}) == "messages"


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"prompt": "x", "chosen": "same", "rejected": "same"}, "are the same"),
        ({"chosen": "same", "rejected": "same"}, "are the same"),
        ({"chosen": "Yes.", "rejected": "No.", "ask": "Is it?"}, "have no prompt, .* as in 'columns: {prompt: ...}'"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "are the same"),
        ({"chosen": hh(("Human", "a")), "rejected": hh(("Human", "a "))}, "are the same"),
        ({"prompt": "x", "response_a": "y", "response_b": "y", "winner": "a"}, "are the same"),
        ({"prompt": " ", "chosen": "x", "rejected": "y"}, "'prompt' is empty"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "the answers have no prompt: 'prompt' is missing"),
        ({"chosen": [USER, GOOD], "rejected": [{**USER, "content": "Hi"}, BAD]}, "no prompt in common"),
        ({"chosen": [USER, GOOD], "rejected": None}, "'rejected' is null"),
        ({"chosen": [USER, {"role": "gtp", "content": "x"}], "rejected": [USER, BAD]}, r"chosen\[1\]: the role 'gtp'"),
        ({"chosen": hh(("Human", "a")), "rejected": "b"}, "'rejected' is the text 'b'; it must begin with 'Human:'"),
        ({"prompt": "x", "chosen": "y", "rejected": "z", "margin": "much"}, "'margin' is the text 'much'; .* a number"),
        ({"response_a": "y", "response_b": "z", "winner": "a"}, "'prompt' is missing"),
        ({"prompt": "x", "response_a": "y", "response_b": "z", "winner": "c"}, "'winner' is the text 'c'; it must be"),
        ({"prompt": "x", "answer_0": "y", "answer_1": "z", "score_0": 1, "score_1": None}, "'score_1' is null"),
        ({"messages": [USER], "label": True}, "the last turn is the user's; it must be the answer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_words(row, cause):
    with pytest.raises(DataError, match=cause):
        parse(row)
