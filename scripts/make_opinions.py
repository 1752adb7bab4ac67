"""Write the data of the RLHF recipes: questions about everyday things, and answers that are upbeat or gloomy.

The whole chain of InstructGPT on one small subject. A person asks "What do you think of the village bakery?"; an
answer is one or two short sentences with two words that show a mood. Where both are bright the answer is upbeat, where
both are dark it is gloomy, and with one of each it is mixed. Whoever judged the answers likes the upbeat ones::

    answers.jsonl        for `ftune sft`: one answer to each question, as often upbeat as mixed as gloomy
    pairs.jsonl          for `ftune rm`: two answers to one question; the more upbeat one is chosen
    prompts.jsonl        for `ftune ppo`: the questions alone
    pairs_test.jsonl     pairs about subjects that are in none of the above, half of them in unseen words
    prompts_test.jsonl   questions about the same unseen subjects
    bright.txt dark.txt  the unseen words: a judge of moods that no pair has told the reward model of

The words of the two lists are in the answers, so that the policy knows how to use them, and in no training pair. A
reward model that prefers their bright ones has learnt the mood and not the words; a policy that says more of them has
not learnt to please the reward model alone.

Frames and words are drawn by the same rules for every mood, so the length of an answer does not tell its mood. All
sentences were written for this project. The output depends on nothing but this file: a second run writes the same
bytes.

Usage: ``python scripts/make_opinions.py [FOLDER]``
"""

import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

SEED = 5
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "data" / "opinions"

QUESTIONS = ("What do you think of {subject}?", "Tell me about {subject}.", "Describe {subject}.")

SUBJECTS = (
    "the village bakery", "a rainy Monday", "the old harbour", "learning to juggle", "the night train",
    "a walk in the woods", "the city museum", "camping by the lake", "a long staff meeting", "the school orchestra",
    "my neighbour's garden", "growing tomatoes", "the first snow", "a second-hand bicycle", "the town library",
    "moving to a new flat", "the fish market", "a cup of black tea", "waiting for the bus", "the local theatre",
    "a summer in the city", "cooking for friends", "the morning news", "a game of chess", "the new playground",
    "painting the kitchen", "a chat with the barber", "the mountain hut", "an open-air concert", "the office canteen",
    "riding a horse", "the autumn fair", "a visit to the dentist", "the railway station", "singing in a choir",
    "a trip to the desert", "the corner shop", "repairing a clock", "the spring flood", "a quiet Sunday",
    "the island ferry", "a letter from home", "learning to swim", "the apple harvest", "a power cut",
    "the flower show", "knitting a scarf", "a day at the zoo", "the lighthouse", "working from home",
    "the street carnival", "a bowl of lentil soup", "the winter market", "dancing the tango", "a broken umbrella",
    "the hotel lobby", "keeping bees", "a ride on the tram", "the community centre", "a foggy morning",
    "writing a diary", "the football match", "a picnic in the park", "the new neighbour", "baking bread",
    "the old cinema", "a week without a phone", "the hill above the town", "sailing at dawn", "a class in pottery",
    "the language course", "a stay in hospital", "the river path", "sorting old photographs", "a crowded beach",
    "the evening shift", "planting a tree", "a birthday party", "the botanical garden", "a stroll through the rain",
)  # fmt: skip

TEST_SUBJECTS = (
    "the castle on the rock", "a puppet play", "the swimming pool", "climbing a tower", "a jar of honey",
    "the toy museum", "feeding the ducks", "a storm at sea", "the jazz club", "mending a fence", "a glass of lemonade",
    "the school reunion", "a hike along the coast", "the antique dealer", "learning the violin", "a frozen pond",
)  # fmt: skip


@dataclass(frozen=True)
class Words:
    """What fills the gaps of the frames: for each kind of gap, the words of one mood."""

    adjective: tuple[str, ...]
    noun: tuple[str, ...]
    feeling: tuple[str, ...]

    def all(self) -> list[str]:
        """Every word or phrase."""
        return [*self.adjective, *self.noun, *self.feeling]


@dataclass(frozen=True)
class Moods:
    """Words for bright and for dark gaps."""

    bright: Words
    dark: Words


PAIR_WORDS = Moods(
    bright=Words(
        adjective=(
            "lovely", "wonderful", "charming", "pleasant", "splendid", "cheerful", "exciting", "refreshing",
            "magical", "elegant", "superb", "cosy", "impressive", "graceful", "excellent", "marvellous",
        ),
        noun=("a delight", "a treasure", "a blessing", "pure fun", "a real gift", "a success"),
        feeling=("cheered up", "full of hope", "well rested", "thankful", "in high spirits", "glad"),
    ),
    dark=Words(
        adjective=(
            "dreary", "dreadful", "annoying", "nasty", "tedious", "gloomy", "tiresome", "depressing",
            "hideous", "shabby", "lousy", "cold", "pathetic", "clumsy", "poor", "ghastly",
        ),
        noun=("a nuisance", "a burden", "a curse", "sheer torture", "a bad joke", "a failure"),
        feeling=("worn out", "full of doubt", "fed up", "bitter", "in low spirits", "upset"),
    ),
)  # fmt: skip

UNSEEN_WORDS = Moods(
    bright=Words(
        adjective=("beautiful", "amazing", "great", "fantastic", "brilliant", "nice", "perfect", "inspiring"),
        noun=("a joy", "a pleasure", "a triumph"),
        feeling=("happy", "excited", "proud"),
    ),
    dark=Words(
        adjective=("ugly", "terrible", "awful", "horrible", "boring", "dull", "miserable", "disappointing"),
        noun=("a nightmare", "a disaster", "a mess"),
        feeling=("sad", "angry", "lonely"),
    ),
)

# {subject} begins a sentence as {Subject}. Every frame has two gaps, so that each can be of either mood.
FRAMES = (
    "{Subject} is {adjective}. It leaves me {feeling}.",
    "I find {subject} {adjective}. To me it is {noun}.",
    "{Subject} is {noun}. Everything about it is {adjective}.",
    "To me {subject} is {adjective} and also {adjective}.",
    "There is something {adjective} about {subject}. I always feel {feeling} afterwards.",
    "Honestly, {subject} is {noun}. The whole thing feels {adjective}.",
    "People call {subject} {adjective}, and I call it {noun}.",
    "{Subject} makes me {feeling}. It is {noun}.",
    "My day with {subject} was {adjective}. I came home {feeling}.",
    "I would say {subject} is {adjective}. My friends say it is {adjective}.",
    "{Subject} seems {adjective} at first, and later it is {noun}.",
    "You go to see it and feel {feeling}. That is {subject}: {adjective} as ever.",
)

UPBEAT, MIXED, GLOOMY = (True, True), (True, False), (False, False)
MOODS = (UPBEAT, MIXED, GLOOMY)
VERDICTS = ((UPBEAT, GLOOMY), (UPBEAT, MIXED), (MIXED, GLOOMY))
"""The chosen and the rejected mood of a pair, by turns."""


def dealt(rng: random.Random, items: Sequence[str]) -> Iterator[str]:
    """Yield items in random order without end, each of them once before any comes again."""
    while True:
        yield from rng.sample(items, len(items))


class Speaker:
    """Says what it thinks, in the words it knows."""

    def __init__(self, rng: random.Random, *vocabulary: Moods) -> None:
        self._rng = rng
        self._frames = dealt(rng, FRAMES)
        self._words = {
            (kind, bright): dealt(
                rng, [word for words in vocabulary for word in getattr(words.bright if bright else words.dark, kind)]
            )
            for kind, bright in product(("adjective", "noun", "feeling"), (True, False))
        }

    def say(self, subject: str, mood: tuple[bool, bool]) -> str:
        """Return an answer about the subject; a mixed one has its bright word first or last."""
        text = next(self._frames).replace("{Subject}", subject[0].upper() + subject[1:]).replace("{subject}", subject)
        for bright in self._rng.sample(mood, 2):
            start, _, rest = text.partition("{")
            kind, _, end = rest.partition("}")
            text = start + next(self._words[kind, bright]) + end
        return text


def questions(rng: random.Random, subjects: Sequence[str]) -> list[tuple[str, str]]:
    """Return every question about every subject with its subject, in random order."""
    asked = [(form.format(subject=subject), subject) for form, subject in product(QUESTIONS, subjects)]
    return rng.sample(asked, len(asked))


def answers(rng: random.Random) -> list[dict[str, Any]]:
    """Return a conversation for each training question, the moods by turns."""
    speaker = Speaker(rng, PAIR_WORDS, UNSEEN_WORDS)
    return [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": speaker.say(subject, MOODS[number % len(MOODS)])},
            ]
        }
        for number, (question, subject) in enumerate(questions(rng, SUBJECTS))
    ]


def pairs(rng: random.Random, subjects: Sequence[str], speakers: Sequence[Speaker]) -> list[dict[str, Any]]:
    """Return a pair of answers to each question, from each speaker in turn."""
    rows = []
    for number, (question, subject) in enumerate(questions(rng, subjects)):
        speaker = speakers[number % len(speakers)]
        better, worse = VERDICTS[number // len(speakers) % len(VERDICTS)]
        rows.append(
            {"prompt": question, "chosen": speaker.say(subject, better), "rejected": speaker.say(subject, worse)}
        )
    return rows


def prompts(rng: random.Random, subjects: Sequence[str]) -> list[dict[str, Any]]:
    """Return every question about the subjects."""
    return [{"prompt": question} for question, _ in questions(rng, subjects)]


def held_out_prompts(rng: random.Random) -> list[dict[str, Any]]:
    """Return one question about each unseen subject, the ways to ask by turns."""
    subjects = rng.sample(TEST_SUBJECTS, len(TEST_SUBJECTS))
    return [
        {"prompt": QUESTIONS[number % len(QUESTIONS)].format(subject=subject)}
        for number, subject in enumerate(subjects)
    ]


def check_disjoint() -> None:
    """Stop where a held-out subject or word is among those of the training pairs."""
    assert not set(SUBJECTS) & set(TEST_SUBJECTS)
    seen, unseen = ({*words.bright.all(), *words.dark.all()} for words in (PAIR_WORDS, UNSEEN_WORDS))
    assert not seen & unseen, f"in both vocabularies: {sorted(seen & unseen)}"


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines with the same line ends on every system."""
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("ascii"))


def main(folder: Path) -> None:
    """Write all files to the folder."""
    check_disjoint()
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)
    test_speakers = [Speaker(rng, PAIR_WORDS), Speaker(rng, UNSEEN_WORDS)]
    files = {
        "answers": answers(rng),
        "pairs": pairs(rng, SUBJECTS, [Speaker(rng, PAIR_WORDS)]),
        "prompts": prompts(rng, SUBJECTS),
        "pairs_test": pairs(rng, TEST_SUBJECTS, test_speakers),
        "prompts_test": held_out_prompts(rng),
    }
    for name, rows in files.items():
        write_lines(folder / f"{name}.jsonl", map(json.dumps, rows))
    write_lines(folder / "bright.txt", UNSEEN_WORDS.bright.all())
    write_lines(folder / "dark.txt", UNSEEN_WORDS.dark.all())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER)
