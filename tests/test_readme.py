"""The README and its pages tell the truth: their tables are the current ones, and their links lead somewhere."""

import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from ftune.core.variants import variants_of
from ftune.peft.base import FEATURES, PeftMethod
from tests.conftest import Done

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_tables_that_are_made_from_the_code_are_current() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "scripts/make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for page, text in module.pages().items():
        assert page.read_text(encoding="utf-8") == text, "run: python scripts/make_reference.py"
    assert (ROOT / "docs/recipes.md").read_text().count("| `optim.learning_rate` |") == 2  # of sft, and of ppo


def test_the_readme_counts_the_methods_that_can_be_trained() -> None:
    limits = [section.model_construct(type=name).limits() for name, section in variants_of(PeftMethod).items()]
    trainable = sum(not all(feature in of_one for feature in FEATURES) for of_one in limits)
    assert f"{trainable} methods" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_of_a_plan_is_what_is_printed(ftune: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = re.search(r"(?s)```\n\$ ftune (plan .*?)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert shown
    done = ftune(*shlex.split(shown[1]))
    assert done.code == 0, done.err
    for part in shown[2].split("...\n"):
        assert part in done.out


def anchors(page: Path) -> set[str]:
    """The names that a page's headings have in links, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        there = page if not path else page.parent / path
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in linked] == []
