"""The heart: over five template families, exactly the answers and their stop tokens are trained."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Message
from ftune.data.template import render

FRAGMENTS = [
    "a",
    "Hello",
    " ",
    "\n",
    "\n\n",
    "  ",
    ".",
    "é",
    "漢字",
    "👩‍🚀",
    "<",
    "|",
    "{{ x }}",
    "<think>",
    "</think>",
]


def conversation(*contents: str, system: str | None = None) -> Conversation:
    """User and assistant by turns."""
    roles = ["user", "assistant"] * len(contents)
    turns = [Message(role, content) for role, content in zip(roles, contents, strict=False)]
    return Conversation(tuple([Message("system", system)] if system is not None else []) + tuple(turns))


def rendered(family, example, generation_prompt=False):
    turns = [{"role": turn.role, "content": turn.content} for turn in example.messages]
    return render(family.tokenizer, family.template, turns, generation_prompt=generation_prompt)


def trained_texts(family, example, **options):
    """The decoded trained stretches, each told from the labels alone."""
    tokens = family.rows(**options).encode(example)
    texts, run = [], []
    for token, label in [*zip(tokens.input_ids, tokens.labels, strict=True), (0, -100)]:
        if label != -100:
            assert label == token
            run.append(token)
        elif run:
            texts.append(family.decode(run))
            run = []
    return texts


@st.composite
def conversations(draw, extra=()):
    text = st.lists(st.sampled_from(FRAGMENTS + list(extra)), max_size=6).map("".join)
    turns = draw(st.integers(1, 3))
    contents = [draw(text) for _ in range(2 * turns)]
    return conversation(*contents, system=draw(st.none() | text))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_exactly_the_answers_and_their_stop_tokens_are_trained(family, data):
    example = data.draw(conversations(extra=family.control))
    answers = family.answers([turn.content for turn in example.messages if turn.role == "assistant"])
    assert trained_texts(family, example) == [answer + family.stop for answer in answers]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_control_tokens_come_from_the_template_only(family, data):
    example = data.draw(conversations(extra=family.control))
    tokens = family.rows().encode(example)
    assert family.decode(tokens.input_ids) == rendered(family, example)
    control = set(family.tokenizer.convert_tokens_to_ids(list(family.control)))
    harmless = [Message(turn.role, "x") for turn in example.messages]
    expected = family.tokenizer(rendered(family, Conversation(tuple(harmless))), add_special_tokens=False)["input_ids"]
    assert [token for token in tokens.input_ids if token in control] == [
        token for token in expected if token in control
    ]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_only_the_last_answer_is_trained_by_last_and_completion(family, data):
    example = data.draw(conversations())
    last = family.answers([turn.content for turn in example.messages if turn.role == "assistant"])[-1]
    assert trained_texts(family, example, mask="last") == [last + family.stop]
    assert trained_texts(family, example, mask="completion") == [last + family.stop]


def test_the_mask_all_trains_every_token_but_the_first(family):
    tokens = family.rows(mask="all").encode(conversation("Hello", "Who are you?"))
    assert tokens.labels == [-100, *tokens.input_ids[1:]]


def test_the_ids_of_plain_text_are_those_of_the_whole_rendering(family):
    example = conversation("Who are you?", "I am a small model.", "Tell me", "It lies on the sea.", system="Be good.")
    whole = family.tokenizer(rendered(family, example), add_special_tokens=False)["input_ids"]
    assert family.rows().encode(example).input_ids == whole


def test_the_prompt_is_the_generation_prompt(family):
    example = conversation("Who are you?", "\n\n  I am \n")
    prompt = rendered(family, Conversation(example.messages[:1]), generation_prompt=True)
    ids = family.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tokens = family.rows().encode(example)
    assert tokens.input_ids[: len(ids)] == ids
    assert set(tokens.labels[: len(ids)]) == {-100}


def test_no_double_bos(family):
    tokens = family.rows().encode(conversation("Hello", "Hello"))
    bos = family.tokenizer.bos_token_id
    assert bos is None or family.name == "smollm2" or tokens.input_ids.count(bos) == 1


def test_a_conversation_may_end_with_a_user_turn(smollm2):
    assert trained_texts(smollm2, conversation("Hi", "Hello.", "Bye")) == ["Hello.<|im_end|>"]


def test_a_conversation_without_an_answer_trains_nothing(smollm2):
    assert smollm2.rows().encode(conversation("Hi")).trained == 0


def test_private_use_characters_in_the_text_are_text_like_any_other(family):
    text = "\uf8f00\uf8f1 and \ue000"
    assert trained_texts(family, conversation(text, text)) == [text + family.stop]


def test_a_thought_is_trained_in_the_last_turn_only(family_of):
    thought = "<think>\nHm.\n</think>\n\nYes."
    texts = trained_texts(family_of("qwen3"), conversation("?", thought, "?", thought))
    assert texts == ["Yes.<|im_end|>", f"{thought}<|im_end|>"]


def test_a_template_without_an_end_of_turn_is_refused(smollm2, rows_with):
    with pytest.raises(DataError, match=r"turn 2 \(assistant\): .* never learn to stop.*model.chat_template"):
        rows_with(smollm2.tokenizer, "endless").encode(conversation("Hi", "Hello."))


def test_a_template_whose_answers_cannot_be_found_is_refused(smollm2, rows_with):
    with pytest.raises(DataError, match=r"turn 2 \(assistant\): the chat template rewrites this turn"):
        rows_with(smollm2.tokenizer, "shuffling").encode(conversation("Hi", "Hello."))


def test_a_template_that_refuses_a_conversation_is_quoted(family_of):
    turns = (Message("user", "a"), Message("user", "b"), Message("assistant", "c"))
    with pytest.raises(DataError, match="refuses this conversation: roles must alternate"):
        family_of("gemma3").rows().encode(Conversation(turns))


def test_llama2_ends_a_turn_with_a_blank_and_eos(metaspace, rows_with):
    tokens = rows_with(metaspace, "llama2").encode(conversation("Who?", "I am.", "Where?", "Paris."))
    assert [answer.text for answer in tokens.answers] == ["I am. </s>", "Paris. </s>"]
    assert [tokens.input_ids[answer.end - 1] for answer in tokens.answers] == [metaspace.eos_token_id] * 2
