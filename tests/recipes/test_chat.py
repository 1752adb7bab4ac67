"""`ftune chat`: what the model is given, who replies, how replies are drawn and where they end."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.core.errors import DataError, ModelError, RecipeError, StorageError
from ftune.core.say import Say
from ftune.data.example import Message
from ftune.data.stops import stop_ids
from ftune.data.template import choose_template
from ftune.models.load import load_tokenizer
from ftune.recipes.runs.chat_model import Opened, open_chat
from ftune.recipes.runs.chat_reply import Reply, _Written, write_reply
from ftune.recipes.runs.chat_sampling import Sampling, sampling_of
from ftune.recipes.runs.chat_turns import Chat
from tests.conftest import Done
from tests.recipes.chat_models import GREEDY, by_transformers, quietly, write_run

Ftune = Callable[..., Done]


def rendered(chat: Chat, *turns: tuple[str, str]) -> list[int]:
    """The turns as transformers renders them."""
    messages = [{"role": role, "content": content} for role, content in turns]
    ids = chat.opened.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return [int(number) for number in ids]


def test_each_question_is_asked_with_all_that_was_said(chat: Chat) -> None:
    chat.system = "be kind"
    first = chat.ask("the cat", quietly)
    asked = [("system", "be kind"), ("user", "the cat"), ("assistant", first.text), ("user", "a mat")]
    turns = [*chat.turns, Message("user", "a mat")]
    assert chat.fitted(chat.asked(turns)) == (rendered(chat, *asked), 12)
    after_history = chat.ask("a mat", quietly)
    chat.turns = []
    assert chat.ask("a mat", quietly).text != after_history.text
    assert chat.fitted(chat.asked(chat.turns[:1]))[0] == rendered(chat, ("system", "be kind"), ("user", "a mat"))


def test_every_adapter_replies_for_itself_and_the_base_comes_back(
    chat: Chat, chat_folders: Path, tiny_model: Path
) -> None:
    ids = rendered(chat, ("user", "nine birds"))
    adapters = {"polite": chat_folders / "polite/adapter", "other": chat_folders / "other", None: None}
    expected = {
        name: by_transformers(tiny_model, adapter, ids, chat.opened.tokenizer) for name, adapter in adapters.items()
    }
    assert len(set(expected.values())) == 3
    for name in ("polite", None, "other", "polite", None):
        chat.opened.switch.use(name)
        chat.turns = []
        assert chat.ask("nine birds", quietly).text == expected[name]
    fresh = load_weights(tiny_model)
    assert all(torch.equal(value, fresh[name]) for name, value in chat.opened.switch.model.state_dict().items())


def load_weights(model: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    return dict(AutoModelForCausalLM.from_pretrained(model).state_dict())


def test_base_and_tuned_are_compared_on_the_same_question(chat: Chat) -> None:
    with pytest.raises(DataError, match="no question yet"):
        chat.compare()
    kept = chat.ask("red roofs", quietly)
    pairs = dict(chat.compare())
    assert list(pairs) == ["base", "polite"]
    assert pairs["polite"].text == kept.text != pairs["base"].text
    assert [turn.content for turn in chat.turns] == ["red roofs", kept.text]
    pairs = dict(chat.compare("and a mat"))
    assert [turn.content for turn in chat.turns[2:]] == ["and a mat", pairs["polite"].text]
    assert chat.opened.switch.current == "polite"


def test_a_fully_tuned_model_is_compared_with_the_base_of_its_run(chat_folders: Path, tiny_model: Path) -> None:
    opened = open_chat(str(chat_folders / "full"), [], None, Say())
    chat = Chat(opened, GREEDY, Say(), seed=0)
    pairs = dict(chat.compare("the cat"))
    assert list(pairs) == ["base", "full"]
    assert pairs["base"].text == pairs["full"].text == chat.turns[-1].content
    opened = open_chat(str(tiny_model), [], None, Say())
    with pytest.raises(ModelError, match="what it was tuned from is not known"):
        Chat(opened, GREEDY, Say(), seed=0).compare("the cat")


def reply_of(chat: Chat, told: Callable[[str], None] = quietly, **changes: Any) -> Reply:
    given: dict[str, Any] = {"stops": chat.opened.stops, "sampling": GREEDY, "seed": 0} | changes
    ids = rendered(chat, ("user", "small birds"))
    return write_reply(chat.opened.switch.model, chat.opened.tokenizer, ids, told=told, **given)


def test_a_stop_token_ends_a_reply_and_is_not_shown(chat: Chat) -> None:
    whole = reply_of(chat, stops=[])
    assert (whole.tokens, whole.stop) == (12, "length")
    tokenizer = chat.opened.tokenizer
    ids = rendered(chat, ("user", "small birds"))
    made = chat.opened.switch.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=-1)
    made_ids = made[0, len(ids) :].tolist()
    stop = next(token for place, token in enumerate(made_ids) if place > 2 and token not in made_ids[:place])
    ended = reply_of(chat, stops=[stop])
    place = made_ids.index(stop)
    assert (ended.tokens, ended.stop) == (place + 1, "stop")
    assert ended.text == tokenizer.decode(made_ids[:place], skip_special_tokens=True)


def test_replies_end_with_what_ended_answers_in_training(chat: Chat, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    end, start = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|im_start|>"))
    assert chat.opened.stops == (end,)
    assert stop_ids(tokenizer, None) == (end,)
    tokenizer.eos_token = "<|im_start|>"
    assert stop_ids(tokenizer, choose_template(tokenizer)) == tuple(sorted((end, start)))


def test_ctrl_c_ends_a_reply_and_what_is_there_is_kept(chat: Chat) -> None:
    told: list[str] = []

    def interrupt(text: str) -> None:
        told.append(text)
        if len(told) == 3:
            raise KeyboardInterrupt

    whole = reply_of(chat)
    reply = chat.ask("small birds", interrupt)
    assert reply.stop == "interrupted"
    assert reply.text == "".join(told)
    assert whole.text.startswith(reply.text)
    assert 3 <= reply.tokens < whole.tokens
    assert chat.turns[-1].content == reply.text


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 300), max_size=30))
def test_the_pieces_of_a_reply_are_its_text(opened_chat: Opened, ids: list[int]) -> None:
    told: list[str] = []
    written = _Written(opened_chat.tokenizer, (), told.append)
    for tokens in ([1, 2], *([token] for token in ids)):
        written.put(torch.tensor([tokens]))
    written.end()
    assert "".join(told) == opened_chat.tokenizer.decode(ids, skip_special_tokens=True)


def test_a_seed_makes_replies_repeatable(chat: Chat) -> None:
    drawn = Sampling(temperature=2.0, top_p=1.0, max_new_tokens=12)
    texts = [reply_of(chat, sampling=drawn, seed=seed).text for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]
    chats = [Chat(chat.opened, drawn, Say(), seed=seed) for seed in (5, 5, None)]
    said = [[each.ask("a", quietly).text, each.ask_again(quietly).text] for each in chats]
    assert said[0] == said[1] != said[2]
    assert said[0][0] != said[0][1]


def test_the_model_s_own_generation_settings_are_the_defaults() -> None:
    from transformers import GenerationConfig

    assert sampling_of(GenerationConfig()) == Sampling()
    own = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95, top_k=20, max_new_tokens=99)
    assert sampling_of(own) == Sampling(0.6, 0.95, 20, 99)
    assert sampling_of(GenerationConfig(do_sample=True, top_k=5)) == Sampling(1.0, 1.0, 5)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("temprature=1", "did you mean 'temperature'"),
        ("top_p", "top_p: has no value; write top_p=VALUE"),
        ("topp", r"'topp' is no setting; write NAME=VALUE; did you mean 'top_p'\?"),
        ("top_p=1.5", "top_p: should be a number from 0 to 1, got '1.5'"),
        ("temperature=nan", "got 'nan'"),
        ("max_new_tokens=2.5", "should be a whole number from 1"),
    ],
)
def test_wrong_settings(word: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Sampling().changed([word])
    assert Sampling().changed(["temperature=0", "top_k=3"]) == replace(Sampling(), temperature=0.0, top_k=3)


def test_the_oldest_turns_make_room_and_a_text_without_room_is_refused(
    opened_chat: Opened, capfd: pytest.CaptureFixture[str]
) -> None:
    chat = Chat(opened_chat, GREEDY, Say(), seed=0)
    turns = [Message(role, f"{number} the cat sat") for number in range(8) for role in ("user", "assistant")]
    chat.system = "be kind"
    ids, longest = chat.fitted(chat.asked([*turns, Message("user", "a mat")]))
    assert longest == 12

    def without(count: int) -> list[int]:
        said = [(turn.role, turn.content) for turn in turns[count:]]
        return rendered(chat, ("system", "be kind"), *said, ("user", "a mat"))

    (dropped,) = [count for count in range(0, 16, 2) if ids == without(count)]
    assert f"the {dropped} oldest turns are left out: the model can read 256 tokens" in capfd.readouterr().err
    assert len(ids) <= 256 - 12 < len(without(dropped - 2))
    only = len(chat.fitted(chat.asked([Message("user", "")]))[0])
    ids, longest = chat.fitted(chat.asked([Message("user", "7" * (250 - only))]))
    assert (len(ids), longest) == (250, 6)
    with pytest.raises(DataError, match=r"has 256 tokens and the model can read 256; shorten it"):
        chat.ask("7" * (256 - only), quietly)
    assert chat.turns == []


def test_a_conversation_is_saved_as_a_row_to_train_on(chat: Chat, tmp_path: Path) -> None:
    from ftune.data.formats.messages import MessagesFormat

    chat.system = "be kind"
    reply = chat.ask("the cat", quietly)
    assert [chat.save(tmp_path / "rows.jsonl") for _ in range(2)] == [1, 2]
    row = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[1])
    example = MessagesFormat().to_example(row)
    assert example == chat.asked([Message("user", "the cat"), Message("assistant", reply.text)])
    with pytest.raises(StorageError, match=r"gone/rows.jsonl: cannot be written: No such file or directory$"):
        chat.save(tmp_path / "gone" / "rows.jsonl")


@pytest.mark.parametrize("before", [b'{"messages": []}', "café".encode("latin-1") + b"\n"], ids=["cut off", "latin-1"])
def test_a_saved_row_is_a_line_of_its_own_behind_any_other(chat: Chat, tmp_path: Path, before: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(before)
    chat.ask("the cat", quietly)
    assert chat.save(tmp_path / "rows.jsonl") == 2
    first, second = (tmp_path / "rows.jsonl").read_bytes().splitlines()
    assert first == before.rstrip()
    assert len(json.loads(second)["messages"]) == 2


def test_bytes_that_are_not_utf8_are_refused(chat: Chat) -> None:
    with pytest.raises(DataError, match="not UTF-8"):
        chat.ask("caf\udce9", quietly)
    chat.system = "caf\udce9"
    with pytest.raises(DataError, match="not UTF-8"):
        chat.ask("the cat", quietly)
    assert chat.turns == []


def test_virtual_tokens_are_asked_as_peft_has_them(chat: Chat, tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    )
    model.save_pretrained(str(tmp_path / "prompt"))
    opened = open_chat(str(tmp_path / "prompt"), [], None, Say())
    reply = Chat(opened, GREEDY, Say(), seed=0).ask("the cat", quietly)
    ids = torch.tensor([rendered(chat, ("user", "the cat"))])
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(tmp_path / "prompt"))
    made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert reply.text == opened.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert opened.room == 256 - 3


def test_a_run_of_plain_text_continues_texts_unless_it_is_told_otherwise(tiny_model: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tiny_model)
    shutil.copytree(tiny_model, run / "model")
    (run / "data.json").write_text(json.dumps({"train": {"format": "text"}}))
    assert [open_chat(str(run), [], plain, Say()).template is None for plain in (None, False)] == [True, False]
    for file in (run / "model").glob("chat_template*"):
        file.unlink()
    (run / "data.json").unlink()
    assert open_chat(str(run), [], None, Say()).template is None
    with pytest.raises(ModelError, match=r"--chat: .* has no chat template"):
        open_chat(str(run), [], False, Say())


def test_the_first_adapter_brings_its_template_to_a_base_without_one(
    chat_folders: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "bare")
    (tmp_path / "bare/chat_template.jinja").unlink()
    polite = f"polite={chat_folders / 'polite'}"
    opened = open_chat(str(tmp_path / "bare"), [polite, f"other={chat_folders / 'other'}"], None, Say())
    assert opened.template is not None
    assert opened.speaker == "polite"


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_broken_model_gives_no_reply(tiny_model: Path, temperature: float) -> None:
    opened = open_chat(str(tiny_model), [], None, Say())
    with torch.no_grad():
        opened.switch.model.get_input_embeddings().weight[:, 3] = float("nan")
    chat = Chat(opened, Sampling(temperature=temperature), Say(), seed=0)
    with pytest.raises(ModelError, match="logits are not numbers"):
        chat.ask("the cat", quietly)
    assert chat.turns == []
