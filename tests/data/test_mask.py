"""The heart: over five template families, exactly the answers and their stop tokens are trained."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Message, ToolCall

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


def tool(name, text):
    parameters = {"type": "object", "properties": {text: {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "description": text, "parameters": parameters}}


@st.composite
def tool_conversations(draw, family):
    """Questions, each with rounds of calls and outputs before its answer; only what the family has a place for."""
    text = st.lists(st.sampled_from([*FRAGMENTS, '"', "\\", *family.control]), max_size=4).map("".join)
    values = st.recursive(text | st.integers() | st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=3)
    call = st.builds(ToolCall, st.sampled_from(["sum", "look_up"]), st.dictionaries(text, values, max_size=2))
    alone = family.calls == "alone"
    turns = [Message("system", draw(text))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        turns.append(Message("user", draw(text)))
        for _ in range(draw(st.integers(0, 2))):
            calls = draw(st.lists(call, min_size=1, max_size=1 if alone else 2))
            turns.append(Message("assistant", "" if alone else draw(text), tuple(calls)))
            turns += [Message("tool", draw(text)) for _ in calls]
        turns.append(Message("assistant", draw(text)))
    tools = tuple(tool(name, draw(text)) for name in draw(st.sampled_from([[], ["sum"], ["sum", "look_up"]])))
    return Conversation(tuple(turns), tools)


def harmless(example):
    """The same turns, calls and tools with nothing in them."""
    calls = [tuple(ToolCall("f", {}) for _ in turn.tool_calls) for turn in example.messages]
    turns = tuple(Message(turn.role, "x", made) for turn, made in zip(example.messages, calls, strict=True))
    return Conversation(turns, tuple(tool("f", "x") for _ in example.tools))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_exactly_the_answers_and_their_stop_tokens_are_trained(family, data):
    example = data.draw(conversations(extra=family.control) | tool_conversations(family))
    answers = [answer + family.stop for answer in family.answers(example.messages)]
    assert trained_texts(family, example) == answers
    tokens = family.rows().encode(example)
    assert [answer.text for answer in tokens.answers] == answers
    called = bool(example.tools) or any(turn.tool_calls for turn in example.messages)
    outputs = any(turn.role == "tool" for turn in example.messages)
    assert tokens.tools_as_text == ((family.calls == "as text" and called) or (not family.outputs and outputs))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_control_tokens_come_from_the_template_only(family, data):
    example = data.draw(conversations(extra=family.control) | tool_conversations(family))
    tokens = family.rows().encode(example)
    assert family.decode(tokens.input_ids) == family.rendered(example)
    control = set(family.tokenizer.convert_tokens_to_ids(list(family.control)))
    expected = family.tokenizer(family.rendered(harmless(example)), add_special_tokens=False)["input_ids"]
    found = [token for token in tokens.input_ids if token in control]
    assert found == [token for token in expected if token in control]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_prompt_and_the_last_answer_are_the_beginning_of_the_row(family, data):
    example = data.draw(conversations(extra=family.control) | tool_conversations(family))
    tokens = family.rows(mask="last").encode(example)
    prompt, (start, end, _) = family.rows(mask="last").prompt_ids(example), tokens.answers[-1]
    assert tokens.input_ids[: len(prompt)] == prompt
    thinks = family.decode(tokens.input_ids[len(prompt) : start])
    assert thinks == ("<think>\n\n</think>\n\n" if "qwen3" in family.name and thinks else "")
    assert tokens.labels == [-100] * start + tokens.input_ids[start:end] + [-100] * (len(tokens.labels) - end)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_turns_that_are_context_only_are_not_trained(family, data):
    example = data.draw(tool_conversations(family))
    answers = family.answers(example.messages)
    places = [place for place, turn in enumerate(example.messages) if turn.role == "assistant"]
    first = data.draw(st.integers(0, len(example.messages)))
    wanted = [answer + family.stop for place, answer in zip(places, answers, strict=True) if place >= first]
    context = replace(example, prompt_turns=first)
    assert trained_texts(family, context) == wanted
    assert trained_texts(family, context, mask="last") == wanted[-1:]
    assert family.rows(mask="all").encode(context) == family.rows(mask="all").encode(example)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_only_the_last_answer_is_trained_by_last_and_completion(family, data):
    example = data.draw(conversations())
    last = family.answers(example.messages)[-1]
    assert trained_texts(family, example, mask="last") == [last + family.stop]
    assert trained_texts(family, example, mask="completion") == [last + family.stop]


def test_the_mask_all_trains_every_token_but_the_first(family):
    tokens = family.rows(mask="all").encode(conversation("Hello", "Who are you?"))
    assert tokens.labels == [-100, *tokens.input_ids[1:]]


def test_the_ids_of_plain_text_are_those_of_the_whole_rendering(family):
    example = conversation("Who are you?", "I am a small model.", "Tell me", "It lies on the sea.", system="Be good.")
    whole = family.tokenizer(family.rendered(example), add_special_tokens=False)["input_ids"]
    assert family.rows().encode(example).input_ids == whole


def test_the_prompt_is_the_generation_prompt(family):
    example = conversation("Who are you?", "\n\n  I am \n")
    prompt = family.rendered(Conversation(example.messages[:1]), generation_prompt=True)
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
