"""What the values of `eval.json` are called on the page."""

import re

PHRASES = {
    "empty": "empty answers",
    "win rate": "win rate by the judge",
    "general text perplexity": "perplexity of general text",
}
"""Names that say too little by themselves."""

WORDS = {
    "bleu": "BLEU", "chrf": "chrF", "f1": "F1", "json": "JSON", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L", "ter": "TER",
}  # fmt: skip


LESS_TELLING = ("_precision", "_recall")
"""Ends of names of values that stand behind another one, their F measure."""


def metric_title(name: str) -> str:
    """`rouge1_recall` as `ROUGE-1 recall`, `repetition_3` as `Repeated 3-grams`; others without underscores."""
    words = name.replace("_", " ")
    title = PHRASES.get(words) or " ".join(WORDS.get(word, word) for word in words.split(" "))
    title = re.sub(r"^length (words|tokens|characters)$", r"length in \1", title)
    title = re.sub(r"^repetition (\d+)$", r"repeated \1-grams", title)
    title = re.sub(r"^distinct (\d+)$", r"different \1-grams", title)
    return title if title.startswith("chrF") else title[:1].upper() + title[1:]
