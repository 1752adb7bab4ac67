"""The model card: true to its facts, safe for any text, and its code is code."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ftune.report.card import CardFacts, model_card
from ftune.report.measures import duration_in_words

FACTS = CardFacts(
    title="orders_lora",
    base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
    on_hub=True,
    task="supervised fine-tuning",
    method="lora",
    folder="adapter",
    chat=True,
    own_tuner=False,
    command="ftune sft recipes/lora.yaml seed=3",
    recipe="type: sft\nseed: 3\n",
    rows={"train.jsonl": 1200},
    hub_datasets=["org/rows"],
    counts={"trained tokens": 12345},
    results={"train loss": 0.123456, "validation loss": None},
    hardware="2 CPU threads",
    duration_s=213.2,
    versions={"torch": "2.13.0"},
)


def front_matter(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def parsed(card: str) -> list[Token]:
    return MarkdownIt().enable("table").parse(card.split("---\n", 2)[2])


def fences(card: str) -> dict[str, str]:
    return {token.info: token.content for token in parsed(card) if token.type == "fence"}


def test_the_front_matter_is_what_the_hub_reads() -> None:
    assert front_matter(model_card(FACTS)) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["ftune", "supervised-fine-tuning", "lora"],
        "datasets": ["org/rows"],
    }
    local = front_matter(model_card(replace(FACTS, on_hub=False, hub_datasets=[], method="full", folder="model")))
    assert local == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["ftune", "supervised-fine-tuning"],
    }


def test_the_licence_is_left_to_the_author() -> None:
    assert "# license: to be filled in by the author" in model_card(FACTS)


def test_the_facts_are_told() -> None:
    card = model_card(FACTS)
    for told in ("| train loss | 0.1235 |", "| train.jsonl | 1,200 |", "| trained tokens | 12345 |", "3 min 33 s"):
        assert told in card
    assert fences(card)["bash"].strip() == FACTS.command
    assert fences(card)["yaml"] == FACTS.recipe
    assert "validation loss" not in card


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    ("method", "folder", "loader"),
    [("lora", "adapter", "AutoPeftModelForCausalLM"), ("full", "model", "AutoModelForCausalLM")],
)
def test_the_loading_code_is_code(method: str, folder: str, loader: str, chat: bool) -> None:
    code = fences(model_card(replace(FACTS, method=method, folder=folder, chat=chat)))["python"]
    names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    assert {loader, "AutoTokenizer"} <= names
    assert ("apply_chat_template" in code) is chat
    assert ("peft" in code) is (folder == "adapter")
    assert f'from_pretrained("{folder}")' in code


def test_an_adapter_of_ftunes_own_says_what_it_needs() -> None:
    text = model_card(replace(FACTS, method="bitfit", own_tuner=True))
    assert "import ftune.peft.tuners" in fences(text)["python"]
    assert "with transformers, peft and ftune:" in text
    assert "ftune.peft" not in model_card(FACTS)


def test_facts_that_are_not_known_leave_no_trace() -> None:
    bare = replace(FACTS, rows={}, counts={}, results={}, hardware="", duration_s=None, versions={})
    assert "|" not in model_card(bare)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


PLAIN = [token.type for token in parsed(model_card(FACTS))]


@settings(max_examples=60, deadline=None)
@given(title=texts, model=texts, source=texts, value=texts)
def test_no_text_turns_into_markup(title: str, model: str, source: str, value: str) -> None:
    facts = replace(
        FACTS, title=f"t{title}", base_model=model, rows={source: 1}, counts={"name": f"v{value}"}, hub_datasets=[model]
    )
    card = model_card(facts)
    tokens = parsed(card)
    assert [token.type for token in tokens] == PLAIN
    heading = next(token for token in tokens if token.type == "inline")
    assert "".join(child.content for child in heading.children).split() == f"t{title}".split()
    assert {child.type for child in heading.children} <= {"text", "text_special"}
    assert front_matter(card)["datasets"] == [model]


@settings(deadline=None)
@given(st.text(st.sampled_from("`~ab:\n #-"), max_size=60))
def test_a_recipe_never_leaves_its_block(recipe: str) -> None:
    assert fences(model_card(replace(FACTS, recipe=recipe)))["yaml"].strip() == recipe.strip()


def test_secrets_and_the_home_folder_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/jane"))
    facts = replace(
        FACTS,
        command="HF_TOKEN=hf_abcdefghijklmnopqrst ftune sft /home/jane/r.yaml",
        base_model="/home/jane/m",
        on_hub=False,
    )
    card = model_card(facts)
    assert "jane" not in card
    assert "abcdefghij" not in card
    assert "ftune sft ~/r.yaml" in card


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (5.4, "5 s"), (65, "1 min 5 s"), (7300, "2 h 1 min")])
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    assert duration_in_words(seconds) == text
