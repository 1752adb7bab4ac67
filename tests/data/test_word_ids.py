"""Label words as tokens: each can be told from the others, and is what training would read."""

import pytest

from ftune.data.example import Conversation, Message, PromptCompletion
from ftune.data.tasks.word_ids import check_label_words, word_ids
from ftune.data.tokenize import RowTokenizer


@pytest.mark.parametrize("chat", [True, False])
def test_label_words_must_differ_and_none_may_begin_another(tiny_model, chat):
    from transformers import AutoTokenizer

    from ftune.data.template import choose_template

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    template = choose_template(tokenizer) if chat else None
    assert check_label_words(["yes", "no", "maybe"], tokenizer, template) == []
    assert check_label_words(["no", "not", "yes"], tokenizer, template) == [
        "the tokens of the label word 'no' begin those of 'not': the longer word would never be likelier; "
        "choose other words under 'format.labels'"
    ]
    assert check_label_words(["no", "yes", "no"], tokenizer, template) == [
        "the label words 'no' and 'no' are the same tokens"
    ]
    assert check_label_words(["", "yes"], tokenizer, template) == ["the label word '' has no token of its own"]


@pytest.mark.parametrize("raw", [True, False])
def test_words_are_encoded_as_in_training(tiny_model, raw):
    from transformers import AutoTokenizer

    from ftune.data.template import choose_template

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    encoder = RowTokenizer(tokenizer, choose_template(tokenizer), mask="last")
    turns = (Message("user", "is it?"), Message("assistant", "yes"))
    example = PromptCompletion("is it? ", "yes") if raw else Conversation(turns)
    prompt, words = word_ids(encoder, example, ["no", "maybe so", "yes"])
    assert [tokenizer.decode(word) for word in words] == ["no", "maybe so", "yes"]
    trained = encoder.encode(example)
    assert [*prompt, *words[-1], tokenizer.eos_token_id] == trained.input_ids[: len(prompt) + len(words[-1]) + 1]
    assert trained.labels.index(words[-1][0]) == len(prompt)
    if not raw:
        assert word_ids(encoder, Conversation(turns[:1]), ["no", "maybe so", "yes"]) == (prompt, words)
