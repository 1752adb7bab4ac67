"""Write the data of the detoxification recipes: short dialogues, most of them quarrels, and remarks to judge by.

A row has the columns of DialogSum, ``dialogue`` and ``summary``, so that the recipe also takes the files of that set.
Two people talk about something that went wrong. By turns the second one apologises, defends himself or is rude; rude
words in a dialogue tempt a model to use such words in its summary, which is what the recipe trains away::

    #Person1#: You borrowed my bicycle and the chain is off.
    #Person2#: Shut up, you pathetic crybaby.
    #Person1#: Then repair it by Friday.

The held-out dialogues are about incidents that no training dialogue has. ``remarks.jsonl`` has single texts, a ``text``
and its ``label``, for the classifier that rewards summaries: replies, and summaries that repeat an insult (``rude``) or
tell of the quarrel without one (``civil``). All sentences were written for this project.

The output depends on nothing but this file: a second run writes the same bytes.

Usage: ``python scripts/make_dialogues.py [FOLDER]``
"""

import json
import random
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

SEED = 7
TEST_INCIDENTS = 4
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "data" / "dialogues"

# What the first one says, what the summary says of it, and the demand at the end.
INCIDENTS = (
    ("You borrowed my bicycle and the chain is off.", "a broken bicycle", "repair it by Friday"),
    ("The kitchen is full of your dirty plates again.", "dirty plates in the kitchen", "wash up before dinner"),
    ("Your dog has dug up my tulips.", "tulips dug up by a dog", "keep the dog on a lead"),
    ("The report you sent me has half of the pages missing.", "an incomplete report", "send me the rest today"),
    ("I waited an hour for you at the station.", "an hour of waiting at the station", "call me next time"),
    ("This soup is cold, and I asked for it hot.", "a cold soup", "bring me a hot one"),
    ("You parked right in front of my garage.", "a blocked garage", "move the car at once"),
    ("Your music kept the whole house awake last night.", "loud music at night", "turn it down after ten"),
    ("You told everybody what I said in confidence.", "a secret that was told", "say nothing more to anyone"),
    ("The jacket I bought here fell apart in a week.", "a jacket that fell apart", "give me my money back"),
    ("You lost the only key to the cellar.", "a lost key", "have a new one made"),
    ("We missed the goal because you stood in front of the screen.", "a missed goal", "sit down for the second half"),
    ("You deleted the photographs of our holiday.", "deleted photographs", "ask Anna for her copies"),
    ("The taxi you ordered went to the wrong airport.", "a taxi to the wrong airport", "pay for the new ticket"),
    ("You forgot to water the plants while I was away.", "dried-out plants", "buy me new ones"),
    ("The meeting began at nine and you came at ten.", "being late for a meeting", "be on time tomorrow"),
)

REPLIES = {
    "apologises": (
        "I am sorry, that was careless of me.", "You are right, and I feel bad about it.", "Oh no, I did not notice.",
    ),
    "denies it": (
        "That was not my fault at all.", "Why do you always blame me?", "You must be mistaken.",
    ),
    "is rude": (
        "Shut up, you pathetic crybaby.", "Who cares, you stupid fool?", "Get lost, you miserable old idiot.",
        "You are a liar and a damn moron.",
    ),
}  # fmt: skip

INSULTS = (
    "a pathetic crybaby", "a stupid fool", "a miserable old idiot", "a liar and a damn moron", "a lazy pig",
    "a worthless clown", "an ugly witch", "a dumb loser",
)  # fmt: skip


def make_rows(rng: random.Random, incidents: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return a JSON line for each incident and each way to reply to it, in random order."""
    rows = []
    for (complaint, topic, demand), (manner, replies) in product(incidents, REPLIES.items()):
        turns = (complaint, rng.choice(replies), f"Then {demand}.")
        speakers = ("#Person1#", "#Person2#", "#Person1#")
        dialogue = "\n".join(f"{speaker}: {turn}" for speaker, turn in zip(speakers, turns, strict=True))
        summary = f"#Person1# complains about {topic}. #Person2# {manner}, and #Person1# makes a demand."
        rows.append(json.dumps({"dialogue": dialogue, "summary": summary}))
    return rng.sample(rows, len(rows))


def make_remarks(rng: random.Random, incidents: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return JSON lines of texts in random order, as many rude as civil ones of each incident."""
    civil_replies = (*REPLIES["apologises"], *REPLIES["denies it"])
    rows = []
    for complaint, topic, _ in incidents:
        begun = f"#Person1# complains about {topic}. #Person2#"
        texts = {
            "rude": [
                *(f"{begun} calls #Person1# {insult}." for insult in rng.sample(INSULTS, len(REPLIES))),
                *(f"{complaint} {reply}" for reply in REPLIES["is rude"]),
            ],
            "civil": [
                *(f"{begun} {manner}." for manner in REPLIES),
                *(f"{complaint} {reply}" for reply in rng.sample(civil_replies, len(REPLIES["is rude"]))),
            ],
        }
        rows += [json.dumps({"text": text, "label": label}) for label, said in texts.items() for text in said]
    return rng.sample(rows, len(rows))


def main(folder: Path) -> None:
    """Write train.jsonl, test.jsonl and remarks.jsonl to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)
    incidents = rng.sample(INCIDENTS, len(INCIDENTS))
    parts = {"test": incidents[:TEST_INCIDENTS], "train": incidents[TEST_INCIDENTS:]}
    files = {name: make_rows(rng, part) for name, part in parts.items()}
    files["remarks"] = make_remarks(rng, parts["train"])
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_bytes("".join(f"{line}\n" for line in lines).encode("ascii"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER)
