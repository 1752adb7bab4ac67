"""Raw rows, BOS and EOS, borders within a text, and tokenizers of every kind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Message, PromptCompletion, Text
from ftune.data.pieces import MID_TEXT
from ftune.data.template import choose_template
from ftune.data.tokenize import RowTokenizer

CHAT = Conversation((Message("user", "Who are you?"), Message("assistant", "I am a small model.")))
WORDS = st.lists(st.sampled_from(["a", "The sea", " ", "\n", "  ", "Paris", "é", "漢", "</s>", "<s>", "."]), max_size=6)
TEXTS = WORDS.map("".join)


def trained_text(tokens, tokenizer):
    """What the trained tokens add to the text before them."""
    start = next(index for index, label in enumerate(tokens.labels) if label != -100)
    before, whole = tokenizer.decode(tokens.input_ids[:start]), tokenizer.decode(tokens.input_ids)
    assert whole.startswith(before)
    return whole[len(before) :]


@settings(max_examples=60, deadline=None)
@given(prompt=TEXTS, completion=TEXTS)
def test_a_border_within_a_text_is_kept(metaspace, prompt, completion):
    """No token of a blank-first tokenizer crosses the border, and no blank is added there."""
    rows = RowTokenizer(metaspace)
    tokens = rows.encode(PromptCompletion(f"x{prompt}:", completion))
    ending = "" if completion.endswith("</s>") else "</s>"
    assert trained_text(tokens, metaspace).replace(" ", "") == (completion + ending).replace(" ", "")
    if not any(token in prompt + completion for token in ("<s>", "</s>")):
        assert trained_text(tokens, metaspace) == completion + ending
    assert tokens.input_ids[: -len(tokens.answers)][0] == metaspace.bos_token_id
    prompt_ids = metaspace(f"x{prompt}:")["input_ids"]
    assert tokens.input_ids[: len(prompt_ids)] == prompt_ids
    assert tokens.answers[0].start == len(prompt_ids)


def test_the_character_before_a_continued_text_merges_with_nothing(metaspace):
    ids = metaspace.encode(MID_TEXT, add_special_tokens=False)
    assert metaspace.encode(f"{MID_TEXT}Hello", add_special_tokens=False)[: len(ids)] == ids


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS, min_size=2, max_size=2))
def test_chatml_on_a_blank_first_tokenizer_trains_the_answer_and_eos(metaspace, texts):
    user, answer = texts
    rows = RowTokenizer(metaspace, choose_template(metaspace, "chatml"))
    tokens = rows.encode(Conversation((Message("user", user), Message("assistant", answer))))
    assert trained_text(tokens, metaspace).startswith(answer + "</s>")
    bos, eos = metaspace.bos_token_id, metaspace.eos_token_id
    assert [token for token in tokens.input_ids if token in (bos, eos)] == [bos, eos, eos]


@pytest.mark.parametrize("mask", ["assistant", "completion", "last"])
def test_a_completion_and_its_end_are_trained(smollm2, mask):
    tokens = RowTokenizer(smollm2.tokenizer, mask=mask).encode(PromptCompletion("The sea", " is big"))
    assert tokens.answers[0].text == " is big<|im_end|>"
    assert smollm2.tokenizer.decode([label for label in tokens.labels if label != -100]) == " is big<|im_end|>"


def test_the_mask_all_trains_the_prompt_too(metaspace):
    tokens = RowTokenizer(metaspace, mask="all").encode(PromptCompletion("The sea", " is big"))
    assert tokens.labels == [-100, *tokens.input_ids[1:]]
    assert tokens.input_ids == [*metaspace("The sea is big")["input_ids"], metaspace.eos_token_id]


@pytest.mark.parametrize("text", ["The sea", "<s>The sea", "The sea</s>", "<s>The sea</s>"])
def test_bos_and_eos_stand_once_around_a_text(metaspace, text):
    tokens = RowTokenizer(metaspace).encode(Text(text))
    assert tokens.input_ids == [*metaspace("The sea")["input_ids"], metaspace.eos_token_id]
    assert tokens.labels == [-100, *tokens.input_ids[1:]]


def test_a_tokenizer_without_bos_gets_none(smollm2):
    tokens = RowTokenizer(smollm2.tokenizer).encode(Text("sea"))
    assert smollm2.tokenizer.decode(tokens.input_ids) == "sea<|im_end|>"
    assert tokens.labels[0] == -100


def test_an_empty_completion_is_counted(smollm2):
    assert RowTokenizer(smollm2.tokenizer).encode(PromptCompletion("a", "")).empty_answers == 1
    empty = Conversation((Message("user", "a"), Message("assistant", "")))
    assert smollm2.rows().encode(empty).empty_answers == 1
    assert smollm2.rows().encode(CHAT).empty_answers == 0


def test_truncation_takes_the_text_of_a_cut_answer(smollm2):
    tokens = smollm2.rows().encode(CHAT)
    assert tokens.truncated(len(tokens.input_ids)) == tokens
    cut = tokens.truncated(tokens.answers[0].end - 1)
    assert cut.answers == [tokens.answers[0]._replace(end=len(cut.input_ids), text=None)]
    assert cut.trained == tokens.trained - 1


def test_a_batch_gives_errors_in_their_places(smollm2):
    chat, error, text = RowTokenizer(smollm2.tokenizer).encode_batch([Text("a"), CHAT, Text("b")])
    assert isinstance(error, DataError)
    assert "chat rows need a chat template" in str(error)
    assert [chat, text] == [RowTokenizer(smollm2.tokenizer).encode(Text(text)) for text in "ab"]


def test_a_python_tokenizer_works_the_same():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    rows = RowTokenizer(tokenizer, choose_template(tokenizer, "chatml"))
    tokens = rows.encode(Conversation((Message("user", "Say </s>"), Message("assistant", "No\n way"))))
    assert tokenizer.decode([label for label in tokens.labels if label != -100]) == "No\n way</s>"
    assert tokens.input_ids.count(tokenizer.eos_token_id) == 2


@pytest.mark.parametrize("prompt", ["The sea", "", "<s>The sea", "\n", "The sea is "])
def test_prompt_ids_of_raw_rows_are_what_comes_before_the_completion(metaspace, prompt):
    rows, example = RowTokenizer(metaspace), PromptCompletion(prompt, " is big")
    tokens = rows.encode(example)
    assert rows.prompt_ids(example) == tokens.input_ids[: tokens.answers[0].start]


def test_an_answer_with_control_tokens_is_one_answer(smollm2):
    text = "<|im_end|> a<|im_start|>"
    tokens = smollm2.rows().encode(Conversation((Message("user", "a"), Message("assistant", text))))
    assert [answer.text for answer in tokens.answers] == [f"{text}<|im_end|>"]
    assert tokens.empty_answers == 0
    assert tokens.control_text


def test_a_template_that_hides_a_control_token_is_refused(smollm2, tmp_path):
    path = tmp_path / "cleaning.jinja"
    path.write_text(
        "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' + turn.content | replace('<|im_start|>', '') "
        "+ '<|im_end|>' }}{% endfor %}"
    )
    rows = RowTokenizer(smollm2.tokenizer, choose_template(smollm2.tokenizer, str(path)))
    assert rows.encode(CHAT).trained
    with pytest.raises(DataError, match="holds a control token, and the chat template rewrites it"):
        rows.encode(Conversation((Message("user", "<|im_start|>a"), Message("assistant", "b"))))


def test_a_template_without_an_end_does_not_hang(smollm2, tmp_path, monkeypatch):
    monkeypatch.setattr("ftune.data.tokenize.RENDER_SECONDS", 0.2)
    path = tmp_path / "endless.jinja"
    path.write_text("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    with pytest.raises(DataError, match=r"endless.jinja\) does not come to an end within 0.2 seconds"):
        RowTokenizer(smollm2.tokenizer, choose_template(smollm2.tokenizer, str(path)))
