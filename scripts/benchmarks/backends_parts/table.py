"""What the results come to: scaling, memory beside the arithmetic, and how far losses are apart."""

from collections.abc import Iterable, Sequence
from typing import Any

from backends_parts.settings import SETTINGS, state_gib

COMPARED = 10
"""The first steps, whose losses are compared."""

HEAD = (
    "setting", "GPUs", "tokens/s", "scaling", "state GiB", "+ activations", "measured GiB", "loss differs", "run s",
    "save s", "result",
)  # fmt: skip


def difference(losses: Sequence[float], others: Sequence[float], first: int = COMPARED) -> float | None:
    """The largest relative difference of the first losses; None where there is nothing to compare."""
    pairs = list(zip(losses[:first], others[:first], strict=False))
    return max((abs(one - other) / abs(other) for one, other in pairs), default=None)


def efficiency(result: dict[str, Any], single: dict[str, Any] | None) -> float | None:
    """Tokens per second over what as many single processes would make: weak scaling."""
    if single is None or "tokens_per_s" not in result or not single.get("tokens_per_s"):
        return None
    return float(result["tokens_per_s"] / single["tokens_per_s"] / result["gpus"])


def activations_gib(single: dict[str, Any] | None) -> float | None:
    """What a single process needs beside its state: the same micro-batch needs it in every process."""
    if single is None or "memory_gib" not in single:
        return None
    return float(single["memory_gib"]) - state_gib("single", 1, single["parameters"])


def markdown(results: Iterable[dict[str, Any]]) -> str:
    """A row for each setting, in their order."""
    order = {setting.name: number for number, setting in enumerate(SETTINGS)}
    found = sorted(results, key=lambda result: (order.get(result["setting"], len(order)), result["gpus"]))
    single = next((each for each in found if each["setting"] == "single" and "error" not in each), None)
    same_rows = {each["rows_of"]: each for each in found if "rows_of" in each}
    if single is not None:
        same_rows.setdefault(1, single)
    lines = ["| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 2) + "---|"]
    for result in found:
        cells = _cells(result, single, same_rows.get(result["gpus"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(result: dict[str, Any], single: dict[str, Any] | None, reference: dict[str, Any] | None) -> list[str]:
    state = state_gib(result["setting"], result["gpus"], result["parameters"]) if "parameters" in result else None
    activations = activations_gib(single)
    both = state + activations if state is not None and activations is not None else None
    apart = None
    if reference not in (None, result) and result.get("losses") and "rows_of" not in result:
        apart = difference(result["losses"], (reference or {}).get("losses", []))
    name = result["setting"] + (f" (of {result['rows_of']})" if "rows_of" in result else "")
    outcome = result.get("error") or result.get("fault") or "whole"
    if "checkpoint_s" in result:
        outcome += f"; checkpoint {result['checkpoint_s']:.1f} s"
    share = efficiency(result, single)
    return [
        name,
        str(result["gpus"]),
        _number(result.get("tokens_per_s"), ",.0f"),
        _number(share and share * result["gpus"], ".2f"),
        _number(state, ".1f"),
        _number(both, ".1f"),
        _number(result.get("memory_gib"), ".1f"),
        _number(apart, ".1e"),
        _number(result.get("run_s"), ".0f"),
        _number(result.get("save_s"), ".1f"),
        outcome.replace("|", "/"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
