"""GGUF files: what was written loads again as the same model with the same tokenizer."""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ftune.merge.engines import gguf_tensors
from ftune.merge.gguf.architectures import UnfitError
from ftune.merge.gguf.vocabulary import vocabulary_of
from ftune.merge.gguf.write import write_gguf
from ftune.models.gguf import folder_of_gguf
from tests.data.conftest import SENTENCES
from tests.merge.gguf_models import MARKS, TEMPLATE, TINY, make_model, sentence_piece

TEXTS = [
    "The capital of France is Paris.",
    "I don't know 12345 of the  two   blanks\n\n\tand tabs, WE'LL see!",
    "Ünïcödé Γειά 東京 🙂 á",
    "user<|turn|>assistant<|end|> <note>and</note>",
    "x",
]


def write(folder: Path, kind: str) -> Path:
    file = folder / "gguf" / f"{kind}.gguf"
    write_gguf(folder, file, kind, lambda done, total: None)
    return file


def loaded(folder: Path, file: Path | None = None) -> Any:
    where, named = (file.parent, {"gguf_file": file.name}) if file else (folder, {})
    return AutoModelForCausalLM.from_pretrained(where, dtype="float32", **named).eval()


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.no_grad():
        return torch.as_tensor(model(ids).logits)


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def greedy(model: Any) -> list[int]:
    ids = torch.tensor([[5, 8, 13, 21]])
    return list(model.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=None)[0].tolist())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models."""
    return {name: make_model(name, tmp_path_factory.mktemp(name)) for name in TINY}


@pytest.mark.parametrize("name", TINY)
def test_f32_gives_the_same_logits(name: str, folders: dict[str, Path]) -> None:
    folder = folders[name]
    model = loaded(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert off(logits(loaded(folder, write(folder, "f32"))), logits(model)) <= 1e-5


@pytest.mark.parametrize("name", TINY)
def test_the_tokenizer_gives_the_same_ids(name: str, folders: dict[str, Path]) -> None:
    folder = folders[name]
    file = write(folder, "q8_0")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    again = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # transformers 5.23 does not put Llama 2's blank behind a special token when it reads GGUF; llama.cpp does
    for text in [text for text in TEXTS if name != "llama2" or MARKS[2] not in text]:
        assert again.tokenize(text) == tokenizer.tokenize(text)
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.chat_template == TEMPLATE


def test_a_file_that_is_opened_again_cuts_texts_with_special_tokens_as_before(folders: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["llama2"])
    again = AutoTokenizer.from_pretrained(folder_of_gguf(write(folders["llama2"], "f32")))
    assert any(MARKS[2] in text for text in TEXTS)
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


LOSS = {"f16": 0.002, "bf16": 0.02, "q8_0": 0.05, "q4_0": 0.4, "q4_1": 0.4, "q5_0": 0.35, "q5_1": 0.35}
"""Bounds for what rounding to so many bits does to the logits of random weights."""


IN_THE_GATE = ("f16", "bf16", "q8_0", "q4_0")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in IN_THE_GATE else pytest.mark.slow) for kind in LOSS]
)
def test_fewer_bits_give_near_logits(kind: str, folders: dict[str, Path]) -> None:
    loss = off(logits(loaded(folders["llama"], write(folders["llama"], kind))), logits(loaded(folders["llama"])))
    assert 1e-5 < loss < LOSS[kind]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "llama" else pytest.mark.slow) for name in TINY]
)
def test_f16_gives_the_same_greedy_text(name: str, folders: dict[str, Path]) -> None:
    assert greedy(loaded(folders[name], write(folders[name], "f16"))) == greedy(loaded(folders[name]))


def by_scores(tokens: list[str], scores: list[float], text: str) -> list[int]:
    """SentencePiece's BPE, slowly: merge the neighbours that make the best token until there are none."""
    known = {token: place for place, token in enumerate(tokens)}
    parts = list("▁" + text.replace(" ", "▁"))
    while pairs := [
        (scores[known[one + other]], -place)
        for place, (one, other) in enumerate(pairwise(parts))
        if one + other in known
    ]:
        place = -max(pairs)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    spelled = [[part] if part in known else [f"<0x{byte:02X}>" for byte in part.encode()] for part in parts]
    return [known[token] for part in spelled for token in part]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from([*" ".join(SENTENCES[:3]).split(" "), "", "é", "🙂", "the\n"]), min_size=1))
def test_scores_say_what_merges_said(words: list[str], folders: dict[str, Path]) -> None:
    fields = fields_of("llama2", folders)
    tokenizer = tokenizers_by_name(folders["llama2"])
    text = f"a{' '.join(words)}"
    found = by_scores(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"], text)
    assert found == tokenizer(text, add_special_tokens=False)["input_ids"]


@cache
def tokenizers_by_name(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@cache
def read_fields(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def fields_of(name: str, folders: dict[str, Path]) -> dict[str, Any]:
    file = folders[name] / "gguf" / "f32.gguf"
    return read_fields(file if file.is_file() else write(folders[name], "f32"))


def test_the_metadata_are_those_of_the_model(folders: dict[str, Path]) -> None:
    fields = fields_of("gemma3", folders)
    expected = {
        "general.architecture": "gemma3",
        "general.file_type": 0,
        "gemma3.context_length": 128,
        "gemma3.embedding_length": 64,
        "gemma3.block_count": 6,
        "gemma3.feed_forward_length": 96,
        "gemma3.attention.head_count": 2,
        "gemma3.attention.head_count_kv": 2,
        "gemma3.attention.key_length": 256,
        "gemma3.attention.sliding_window": 8,
        "gemma3.rope.freq_base": 1e6,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    assert {name: fields.get(name) for name in expected} == expected
    types = fields["tokenizer.ggml.token_type"]
    assert types[:4] == [2, 3, 3, 3]
    assert types.count(6) == 256
    assert types[-5:] == [5] * 5
    assert fields_of("gemma2", folders)["gemma2.attn_logit_softcapping"] == 50.0


@pytest.mark.parametrize(("name", "split"), [("llama", "gpt-2"), ("mistral", "llama-bpe"), ("qwen3", "qwen2")])
def test_llama_cpp_learns_how_texts_are_cut(name: str, split: str, folders: dict[str, Path]) -> None:
    fields = fields_of(name, folders)
    assert fields["tokenizer.ggml.pre"] == split
    note = fields["tokenizer.ggml.tokens"].index("<note>")
    assert fields["tokenizer.ggml.token_type"][note] == 4


def test_llama_3s_frequencies_get_their_factors(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    folder = make_model("llama", tmp_path, rope_parameters=rope)
    config = AutoConfig.from_pretrained(folder)
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / (5e5 ** (torch.arange(0, 16, 2) / 16))
    written = {tensor.name: tensor for tensor in GGUFReader(write(folder, "q8_0")).tensors}["rope_freqs.weight"]
    assert torch.allclose(torch.tensor(written.data.copy()), plain / slowed, rtol=1e-5)


def test_pieces_make_the_same_file(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(folders["llama"], "q8_0").read_bytes()
    monkeypatch.setattr(gguf_tensors, "PIECE_NUMBERS", 2000)
    assert write(folders["llama"], "q8_0").read_bytes() == whole


def test_the_ends_keep_more_bits_and_narrow_matrices_are_f16(tmp_path: Path) -> None:
    folder = make_model("llama", tmp_path, intermediate_size=80, tie_word_embeddings=False)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(write(folder, "q4_0")).tensors}
    assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_up.weight"] == "Q4_0"
    assert kinds["blk.0.ffn_down.weight"] == "F16"  # its rows have 80 numbers
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_progress_ends_with_all_tensors(folders: dict[str, Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_gguf(folders["llama"], tmp_path / "deep" / "m.gguf", "f16", lambda done, total: seen.append((done, total)))
    assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)]


def test_a_file_appears_only_when_complete(folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"older")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(folders["llama"], file, "f16", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    assert file.read_bytes() == b"older"


def test_tokens_that_are_found_whole_may_be_merged_in_any_order() -> None:
    tokenizer = sentence_piece(prefix=False)
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    runs = [["▁▁", "▁▁"], ["\n", "\n\n"], ["▁▁▁", "▁"], ["\n\n", "\n"], ["▁", "▁▁▁"]]  # two tokens by turns, as Gemma's
    vocab = described["model"]["vocab"]
    for token in ("▁▁", "▁▁▁", "▁▁▁▁", "\n", "\n\n", "\n\n\n"):
        vocab.setdefault(token, len(vocab))
    described["model"]["merges"] = runs
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described)))
    with pytest.raises(UnfitError, match="in an order that scores cannot give"):
        vocabulary_of(tokenizer, 600)
    tokenizer.add_tokens([AddedToken("▁▁▁▁", normalized=False), AddedToken("\n\n\n", normalized=False)])
    made = vocabulary_of(tokenizer, 600)
    assert made.types[vocab["▁▁▁▁"]] == 4
    assert made.tokens[vocab["▁▁▁▁"]] == "    "
