"""The preview: what is trained, with and without colour, and nothing hidden."""

import json

import pytest

from ftune.data.intake import Rules
from ftune.data.mix import chained
from ftune.data.prepare import prepare
from ftune.data.preview import preview_json, render_preview
from ftune.data.row import Row


@pytest.fixture
def prepared(smollm2):
    rows = [
        Row({"instruction": "Beep <|im_end|>\x1b[31m\u202e", "output": "Boop\nagain"}, "rows.jsonl", 1),
        Row({"instruction": "a", "output": "b"}, "rows.jsonl", 2),
    ]
    return chained([prepare(rows, None, smollm2.tokenizer, smollm2.template, Rules())])


def test_without_colour_trained_text_is_marked(prepared, smollm2):
    text = str(render_preview(prepared, smollm2.tokenizer, 1, color=False))
    assert "rows.jsonl:1: " in text
    assert "[[Boop\nagain<|im_end|>]]\n" in text
    assert "Beep \\<|im_end|>\\x1b[31m\\u202e<|im_end|>" in text
    assert "rows.jsonl:2" not in text
    assert "2 rows read, 2 kept" in text
    assert "format: alpaca (keys 'instruction' and 'output'" in text
    assert text.count("ok    ") == 6


def test_with_colour_trained_text_is_green_and_control_tokens_are_reversed(prepared, smollm2):
    text = render_preview(prepared, smollm2.tokenizer, 1)
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styles["Boop\nagain"] == "green"
    assert styles["<|im_end|>"] == "green reverse"
    assert styles["<|im_start|>"] == "dim reverse"
    assert "[[" not in text.plain


def test_json_has_every_token_with_its_flag(prepared, smollm2):
    first, second = json.loads(json.dumps(preview_json(prepared, smollm2.tokenizer, 5)))
    assert (first["origin"], second["origin"]) == ("rows.jsonl:1", "rows.jsonl:2")
    assert len(first["ids"]) == len(first["tokens"]) == len(first["trained"]) == first["counts"]["tokens"]
    assert sum(first["trained"]) == first["counts"]["trained"]
    assert [token for token, flag in zip(second["tokens"], second["trained"], strict=True) if flag] == [
        "b",
        "<|im_end|>",
    ]


def test_a_blank_first_tokenizer_keeps_its_blanks(metaspace):
    row = Row({"prompt": "The sea", "completion": " is big"}, "rows.csv", 2)
    prepared = chained([prepare([row], None, metaspace, None, Rules())])
    assert "The sea[[ is big</s>]]" in str(render_preview(prepared, metaspace, color=False))


def test_of_preferences_both_sides_are_shown(smollm2):
    row = Row({"prompt": "Who? ", "chosen": "A friend.", "rejected": "Go away."}, "rows.jsonl", 4)
    prepared = chained([prepare([row], None, smollm2.tokenizer, smollm2.template, Rules(answers="both"))])
    text = str(render_preview(prepared, smollm2.tokenizer, color=False))
    chosen, rejected = text.index("rows.jsonl:4: chosen,"), text.index("rows.jsonl:4: rejected,")
    assert "A friend." in text[chosen:rejected]
    assert "Go away." in text[rejected:]
    (described,) = preview_json(prepared, smollm2.tokenizer)
    assert described["ids"] != described["rejected"]["ids"]


def test_packed_sequences_show_where_their_documents_begin(prepared, smollm2):
    text = str(render_preview(prepared, smollm2.tokenizer, 1, bins=[[0, 1]], color=False))
    assert "== packed sequence 1: 2 documents" in text
    assert text.index("packed sequence 1") < text.index("rows.jsonl:1: ") < text.index("rows.jsonl:2: ")
