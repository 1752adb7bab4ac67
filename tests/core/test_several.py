"""Numbers with their words."""

from ftune.core.several import several


def test_one_is_singular_and_all_else_is_plural() -> None:
    assert [several(count, "row") for count in (0, 1, 2, 3000)] == ["0 rows", "1 row", "2 rows", "3,000 rows"]
    assert [several(count, "answer is", "answers are") for count in (1, 2)] == ["1 answer is", "2 answers are"]
