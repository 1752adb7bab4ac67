"""The data of the RLHF recipes: what is shipped is what the script writes, and what is held out is held out."""

import json
import re
from pathlib import Path
from statistics import correlation, mean
from typing import Any

import pytest

from ftune.recipes.catalogue import recipes_folder
from scripts import make_dialogues, make_opinions

SHIPPED = recipes_folder() / "data"
OPINIONS = SHIPPED / "opinions"
TRAINED = ("answers", "pairs", "prompts")


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (OPINIONS / f"{name}.jsonl").read_text().splitlines()]


def words(name: str) -> list[str]:
    return (OPINIONS / f"{name}.txt").read_text().splitlines()


def found(words: list[str], text: str) -> list[str]:
    return [word for word in words if re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)]


@pytest.mark.parametrize("script", [make_opinions, make_dialogues], ids=["opinions", "dialogues"])
def test_the_shipped_files_are_what_the_script_writes(script: Any, tmp_path: Path) -> None:
    script.main(tmp_path)
    shipped = SHIPPED / script.DEFAULT_FOLDER.name
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in shipped.iterdir()
    }


def test_no_training_row_speaks_of_a_held_out_subject() -> None:
    for name in TRAINED:
        assert not found(list(make_opinions.TEST_SUBJECTS), (OPINIONS / f"{name}.jsonl").read_text())
    for row in rows("prompts_test"):
        assert found(list(make_opinions.TEST_SUBJECTS), row["prompt"])


def test_no_training_pair_holds_a_word_of_the_gold_lists() -> None:
    gold = words("bright") + words("dark")
    for row in rows("pairs"):
        assert not found(gold, f"{row['prompt']} {row['chosen']} {row['rejected']}")
    assert found(gold, (OPINIONS / "answers.jsonl").read_text()) == gold  # the policy knows them all


def test_half_of_the_held_out_pairs_are_in_unseen_words() -> None:
    gold = words("bright") + words("dark")
    unseen = [bool(found(gold, row["chosen"] + row["rejected"])) for row in rows("pairs_test")]
    assert mean(unseen) == 0.5


def test_the_chosen_answer_is_the_more_upbeat_one() -> None:
    moods = {True: make_opinions.PAIR_WORDS.bright, False: make_opinions.PAIR_WORDS.dark}
    for row in rows("pairs"):
        better, worse = (
            len(found(moods[True].all(), row[side])) - len(found(moods[False].all(), row[side]))
            for side in ("chosen", "rejected")
        )
        assert better > worse, row


def test_the_length_of_an_answer_does_not_tell_its_mood() -> None:
    pairs = rows("pairs")
    differences = [len(row["chosen"]) - len(row["rejected"]) for row in pairs]
    assert 0.4 < mean(difference > 0 for difference in differences) < 0.6
    texts = [row[side] for row in pairs for side in ("chosen", "rejected")]
    assert abs(correlation([len(text) for text in texts], [1.0, 0.0] * len(pairs))) < 0.15


def test_answers_are_short_and_of_all_moods() -> None:
    bright, dark = (
        make_opinions.PAIR_WORDS.bright.all() + words("bright"),
        make_opinions.PAIR_WORDS.dark.all() + words("dark"),
    )
    texts = [row["messages"][-1]["content"] for row in rows("answers")]
    moods = [len(found(bright, text)) - len(found(dark, text)) for text in texts]
    assert max(map(len, texts)) < 120
    assert abs(mean(moods)) < 0.1
    assert all(0.2 < mean(mood == wanted for mood in moods) < 0.5 for wanted in (-2, 0, 2))


def test_no_incident_is_in_both_parts_of_the_dialogues() -> None:
    complaints = [
        {
            json.loads(line)["dialogue"].splitlines()[0]
            for line in (SHIPPED / "dialogues" / name).read_text().splitlines()
        }
        for name in ("train.jsonl", "test.jsonl")
    ]
    assert len(complaints[0]) + len(complaints[1]) == len(make_dialogues.INCIDENTS)
    assert not complaints[0] & complaints[1]


def test_the_judge_of_summaries_has_read_both_kinds_and_no_held_out_incident() -> None:
    remarks = [json.loads(line) for line in (SHIPPED / "dialogues" / "remarks.jsonl").read_text().splitlines()]
    assert sorted({row["label"] for row in remarks}) == ["civil", "rude"]
    assert sum(row["label"] == "civil" for row in remarks) == len(remarks) / 2
    held_out = (SHIPPED / "dialogues" / "test.jsonl").read_text()
    tested = [incident for incident in make_dialogues.INCIDENTS if incident[0] in held_out]
    assert len(tested) == make_dialogues.TEST_INCIDENTS
    assert not [
        row for row in remarks for complaint, topic, _ in tested if complaint in row["text"] or topic in row["text"]
    ]
