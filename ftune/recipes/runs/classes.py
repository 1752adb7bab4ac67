"""The classes of a classifier: named in the recipe, or those of the rows' format."""

from itertools import islice

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.encode import FIRST, understood
from ftune.recipes.data_section import RowsSection


def class_names(data: RowsSection, named: list[str] | None, positive: str, seed: int) -> tuple[str, ...]:
    """The names in the order of the head's outputs; without `named` ones, those that the formats of the sources list.

    Raises DataError where there are fewer than two, or where the `positive` one is none of them.
    """
    names: dict[str, None] = dict.fromkeys(named or ())
    if named is None:
        for source in data.train:
            first = islice(source.read(seed), FIRST)
            layout, _ = understood(first, source.format or data.format, tolerant=data.on_bad_row == "drop", seed=seed)
            names |= dict.fromkeys(layout.format.classes())
    if len(names) < 2:
        raise DataError(
            f"head.labels: the rows have {len(names) or 'no'} class{'' if len(names) == 1 else 'es'}, and a classifier "
            "needs two at least; rows are a text and its class ('data.format: classification'), or name the classes"
        )
    if positive not in names:
        raise DataError(f"head.positive_class: no class '{positive}'{did_you_mean(positive, names)}")
    return tuple(names)
