"""`ftune plan --table`: published numbers beside what the arithmetic makes of the same runs."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap

from ftune.plan.published import Published, published
from ftune.recipes.runs.plan_text import WIDTH

NAME = 50


def published_table(*, as_json: bool) -> str:
    """All of them, as text in 80 columns or as JSON."""
    known = published()
    if as_json:
        return json.dumps([{**asdict(each), "fits": each.fits} for each in known], indent=2)
    lines = [f"{'GB (1e9 bytes) of one device':<{NAME}}{'published':>10}{'here':>10}"]
    return "\n".join([*lines, *(line for each in known for line in _lines(each))])


def _lines(each: Published) -> Iterator[str]:
    first, *more = wrap(each.what, NAME - 1)
    said = f"{each.said_gb:,.1f}" if each.said_gb is not None else ""
    verdict = "" if each.fits is None else ("   fits" if each.fits else "   too big")
    yield f"{first:<{NAME}}{said:>10}{each.ours_gb:>10,.1f}{verdict}"
    yield from more
    about = [each.source, f"card of {each.card_gb:g} GB" if each.card_gb else "", each.note]
    yield from wrap("; ".join(filter(None, about)), WIDTH, initial_indent="    ", subsequent_indent="    ")
