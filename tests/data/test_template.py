"""Choosing a template: own, shipped, from a file, or a clear refusal."""

from hashlib import sha256

import pytest

from ftune.core.errors import DataError
from ftune.data.template import choose_template, render, shipped

HELLO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def test_the_tokenizers_own_template_is_the_default(smollm2):
    smollm2.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    template = choose_template(smollm2.tokenizer)
    smollm2.tokenizer.chat_template = None
    assert (template.text, template.origin) == ("{{ messages[0]['content'] }}", "the tokenizer's own")
    assert template.sha256 == sha256(template.text.encode()).hexdigest()


def test_no_template_names_the_choices(metaspace):
    with pytest.raises(DataError, match=r"model.chat_template: chatml.*\.jinja"):
        choose_template(metaspace)


def test_a_wrong_name_gets_a_suggestion(metaspace):
    with pytest.raises(DataError, match=r"chatlm: no such chat template.*did you mean 'chatml'"):
        choose_template(metaspace, "chatlm")


def test_a_file_is_taken_as_it_stands(metaspace, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ eos_token }}")
    template = choose_template(metaspace, str(path))
    assert (template.name, template.origin, render(metaspace, template, HELLO)) == ("mine", str(path), "</s>")
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"mine.jinja: the chat template is not UTF-8 text \(byte 0\)"):
        choose_template(metaspace, str(path))


def test_chatml_ends_turns_with_a_token_of_the_tokenizer(smollm2, metaspace):
    assert shipped() == ["chatml"]
    own = render(smollm2.tokenizer, choose_template(smollm2.tokenizer, "chatml"), HELLO)
    assert own == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    other = render(metaspace, choose_template(metaspace, "chatml"), HELLO[:1], generation_prompt=True)
    assert other == "<s><|im_start|>user\nHi</s>\n<|im_start|>assistant\n"


def test_a_broken_template_is_a_data_error(metaspace, tmp_path):
    path = tmp_path / "broken.jinja"
    path.write_text("{% for %}")
    with pytest.raises(DataError, match=r"broken.jinja"):
        render(metaspace, choose_template(metaspace, str(path)), HELLO)


@pytest.mark.parametrize(
    "text", ["{{ 1 / 0 }}", "{{ messages[9].content[0] }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"]
)
def test_what_goes_wrong_inside_a_template_is_a_data_error(metaspace, tmp_path, text):
    path = tmp_path / "faulty.jinja"
    path.write_text(text)
    with pytest.raises(DataError, match=r"faulty.jinja\) refuses this conversation"):
        render(metaspace, choose_template(metaspace, str(path)), HELLO)
