"""The report page: what it says, that it is safe and self-contained, and that it stays small."""

import json
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from ftune.core.errors import DataError, RecipeError
from ftune.report.page.evaluation import comparison
from ftune.report.page.write import DETAIL, LARGEST_BYTES, render, write_page, write_report_page
from ftune.report.run_record import read_run
from tests.report.page_runs import killed_run, ppo_run, sft_run, start_run

VOID = {"meta", "br", "path", "link", "img", "input", "hr"}
NASTY = "</script></style></textarea><img src=x onerror=alert(1)>\"'{{ 7*7 }}{% raw %}"


class Page(HTMLParser):
    """Checks that tags are nested, and collects elements, ids and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.headings: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:  # noqa: D102
        assert self.open.pop() == tag
        self.text += " " if tag in ("td", "th", "dt", "dd", "h3", "h4", "p", "b", "span") else ""

    def handle_data(self, data: str) -> None:  # noqa: D102
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of the elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(*folders: Path) -> Page:
    output = write_page(folders, folders[0] / "report.html")
    assert output.stat().st_size <= LARGEST_BYTES
    return checked(output.read_text(encoding="utf-8"))


def checked(html: str) -> Page:
    """A page of sound structure: unique ids, links that lead somewhere, labelled tables and charts, nothing outside."""
    assert html.startswith("<!doctype html>")
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    for name, attributes in page.elements:
        assert not {"src", "srcset", "action", "xlink:href"} & attributes.keys()
        assert not any(key.startswith("on") for key in attributes)
        assert name not in ("script", "img", "iframe", "object", "link", "base", "form")
        if "href" in attributes:
            assert attributes["href"] in [f"#{each}" for each in ids]
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)
    charts = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert all(svg["role"] == "img" and svg["aria-labelledby"] for svg in charts)
    assert len(page.all("title")) == len(charts) + 1
    assert len(page.all("caption")) == len(page.all("table"))
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("nav")) == 1
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert all(deeper - level <= 1 for level, deeper in pairwise(levels))
    assert page.all("html") == [{"lang": "en"}]
    assert not re.search(r"url\(|@import|https?:", re.search(r"<style>.*?</style>", html, re.DOTALL).group())
    return page


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_a_run_with_everything(tmp_path: Path) -> None:
    page = page_of(sft_run(tmp_path / "run"))
    assert page.headings == [
        "Summary", "Before and after", "Curves", "Speed and memory", "Data", "Samples", "Incidents",
        "Environment and recipe",
    ]  # fmt: skip
    text = words(page)
    for fact in (
        "Supervised fine-tuning of base", "10 of 1,000 (1.00%)", "1,000 training rows, 50 held-out rows",
        "60 (2 epochs)", "6,000", "100 held-out rows of test.jsonl", "+0.170 to +0.210", "▲ better", "▼ worse",
        "not sure", "12 of 40 rows, evenly spread", "step 7 step skipped: loss nan; rows rows.jsonl:3", "beware of it",
        "25% of the tokens are trained", "failed: ids fit", "200 dropped: longer than max_length", "torch 2.13.0",
        "7 rows were cut to max_length", "4 to 60, median 19",
    ):  # fmt: skip
        assert fact in text
    assert text.count("beware of it") == 1


def test_the_verdict_follows_the_interval_and_the_good_way(tmp_path: Path) -> None:
    found = comparison(read_run(sft_run(tmp_path / "run", steps=1)))
    assert found
    verdicts = {row.metric: row.verdict for row in found.rows}
    assert verdicts == {"ROUGE-1": "better", "Perplexity": "worse", "chrF": "unsure", "Length": "", "TER": "better"}
    rouge, _, chrf, *_ = found.rows
    assert (rouge.before, rouge.after, rouge.difference, rouge.better) == ("0.210", "0.400", "+0.190", "71")
    assert (chrf.interval, chrf.signature) == ("−0.50 to +1.20", "nrefs:1|case:mixed")


def test_charts_say_in_words_what_they_show(tmp_path: Path) -> None:
    text = words(page_of(sft_run(tmp_path / "run", steps=20)))
    assert "training: 2.2 at step 1, 0.847 at step 20; lowest 0.471 at step 18, highest 2.2 at step 1." in text
    assert "validation: 0.425 at step 20." in text


def test_prediction_and_measurement_stand_beside_each_other(tmp_path: Path) -> None:
    assert re.search(r"Peak memory, GiB\s+2\s+1.5\s+0.75", page_of(sft_run(tmp_path / "run", steps=3)).text)


def test_a_run_that_was_killed_after_its_first_step(tmp_path: Path) -> None:
    page = page_of(killed_run(tmp_path / "run"))
    assert page.headings == ["Summary", "Curves", "Incidents", "Environment and recipe"]
    assert "it is running, or was killed" in words(page)


def test_a_run_without_any_event(tmp_path: Path) -> None:
    start_run(tmp_path / "run", "failed", {}, "")
    assert page_of(tmp_path / "run").headings == ["Summary", "Incidents"]


def test_ppo_tells_the_kept_iteration_and_the_first_and_last_completions(tmp_path: Path) -> None:
    page = page_of(ppo_run(tmp_path / "run"))
    text = words(page)
    assert "Held-out score 0.9 from 0.1" in text
    assert "24 training prompts" in text
    assert re.search(r"rollout\s+36 s\s+75%", page.text)
    assert "The sea is grim today." in text
    assert "The sea is lovely today." in text
    assert "fair" not in text
    assert "iteration 3 updates ended early" in text


def test_pairs_of_a_reward_model_share_their_prompt(tmp_path: Path) -> None:
    start_run(tmp_path / "run", "done", {"type": "rm"}, "")
    pair = {"row": "p:1", "chosen": "User: hi\nBot: good day", "rejected": "User: hi\nBot: go away", "margin": -0.5}
    (tmp_path / "run" / "pairs.jsonl").write_text(json.dumps(pair | {"chosen_score": 0.25, "rejected_score": 0.75}))
    text = words(page_of(tmp_path / "run"))
    assert "User: hi Bot: chosen good day Score 0.25 rejected go away Score 0.75" in text


def test_whatever_texts_hold_it_stays_text(tmp_path: Path) -> None:
    folder = sft_run(tmp_path / "<b>&amp;'\"run", text=NASTY, steps=50)
    page = page_of(folder)
    assert NASTY in page.text
    assert "<b>&amp;'\"run" in page.text
    assert "49" not in re.findall(r"base\S*", page.text)[0]
    assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
    both = page_of(folder, sft_run(tmp_path / "other", steps=50, learning_rate=1.0))
    assert NASTY in both.text


def test_secrets_do_not_reach_the_page(tmp_path: Path) -> None:
    secret = "hf_" + "a1B2" * 8
    page = write_report_page(sft_run(tmp_path / "run", text=f" {secret}", steps=3)).read_text()
    assert secret not in page
    assert "[redacted]" in page


def test_several_runs_lie_over_each_other(tmp_path: Path) -> None:
    runs = [
        sft_run(tmp_path / "a" / "run"),
        sft_run(tmp_path / "b" / "run", learning_rate=0.5),
        ppo_run(tmp_path / "c"),
    ]
    page = page_of(*runs)
    text = words(page)
    assert "3 runs beside each other" in text
    assert "a/run" in text
    assert re.search(r"optim\.learning_rate\s+0.0002\s+0.5\s+–", page.text)
    styles = Counter(attributes.get("class") for attributes in page.all("path"))
    assert styles["dashed c0"]
    assert styles["dashed c1"]
    assert not any(str(style).startswith(("raw", "band")) for style in styles)


def test_a_hundred_thousand_steps_are_thinned_and_the_peak_stays_in_sight(tmp_path: Path) -> None:
    start_run(tmp_path / "run", "done", {"type": "sft"}, "")
    with (tmp_path / "run" / "events.jsonl").open("w") as file:
        for step in range(1, 100_001):
            loss = 50.0 if step == 54_321 else 1 + (step * 7919 % 1000) / 1000
            file.write(f'{{"time": "2026-11-22T10:00:00+00:00", "kind": "step", "step": {step}, "loss": {loss}}}\n')
    page = page_of(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").stat().st_size < 100_000
    assert "highest 50 at step 54,321" in words(page)
    assert any(str(path.get("class")).startswith("band") for path in page.all("path"))


def test_the_page_gets_coarser_until_it_is_small_enough(tmp_path: Path) -> None:
    folder = sft_run(tmp_path / "run", text="<&>" * 400)
    samples = [
        {"prompt": "&" * 5000, "reference": "< " * 900, "completions": {str(name): '"' * 1500 for name in range(16)}}
        for _ in range(30)
    ]
    (folder / "eval" / "samples.jsonl").write_text("\n".join(map(json.dumps, samples)))
    assert len(render([read_run(folder)], *DETAIL[0])) > LARGEST_BYTES
    page_of(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"metrics": {"a": {"before": "x"}, "b": 3}, "rows": "many"}', "[" * 9999]
)
def test_a_broken_evaluation_is_passed_over(tmp_path: Path, content: str) -> None:
    folder = killed_run(tmp_path / "run")
    (folder / "eval").mkdir()
    (folder / "eval" / "eval.json").write_text(content)
    (folder / "eval" / "samples.jsonl").write_text('{"prompt": 3, "completions": [1]}\n{"scores": "x"}\n' + content)
    (folder / "data.json").write_text('{"train": {"counts": {"dropped": 3, "tokens": "x", "lengths": {"bins": [1]}}}}')
    assert "Before and after" not in page_of(folder).headings


def test_hostile_events_are_no_fault(tmp_path: Path) -> None:
    folder = killed_run(tmp_path / "run")
    lines = [
        {"kind": "resumed", "step": 5, "time": 3}, {"kind": "start", "time": "now"}, {"kind": "resumed", "step": -1},
        {"kind": "step"}, {"kind": "step", "step": "x", "loss": 1}, {"kind": "step", "step": 2, "loss": "much"},
        {"kind": "step", "step": 10**400, "loss": 1}, {"kind": "step", "step": 3, "loss": 10**400},
        {"kind": "step", "step": 4, "loss": 1e308, "kl": -1e308, "seconds": 5, "non_finite": []},
        {"kind": "step", "step": 5, "loss": True, "kl": 5e-324},
        {"kind": "model", "trainable": [], "parameters": {}, "processes": "x"}, {"kind": "eval", "step": 1, "kl": 1},
    ]  # fmt: skip
    text = "\n".join(json.dumps({"time": "2026-11-22T10:00:00+00:00", **line}) for line in lines)
    (folder / "events.jsonl").write_text(text + "\n")
    assert "Curves" in page_of(folder).headings


def test_what_cannot_be_reported_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is no run of ftune"):
        write_report_page(tmp_path)
    run = killed_run(tmp_path / "run")
    with pytest.raises(RecipeError, match="9 runs: one page shows 1 to 8"):
        write_page([run] * 9, tmp_path / "x.html")
    (tmp_path / "mine.html").write_text("my own page")
    with pytest.raises(RecipeError, match="is no report of ftune"):
        write_page([run], tmp_path / "mine.html")
    write_page([run], tmp_path / "new" / "x.html")
    write_page([run], tmp_path / "new" / "x.html")
    (run / "events.jsonl").write_text('broken\n{"time": "2026-11-22T10:00:00+00:00", "kind": "step", "step": 1}\n')
    with pytest.raises(DataError, match=r"events\.jsonl:1"):
        write_page([run], tmp_path / "x.html")
