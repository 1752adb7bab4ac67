"""A number with its word, in singular and plural."""


def several(count: int, one: str, many: str = "") -> str:
    """`1 node`, `2 nodes`, `3,000 processes`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
