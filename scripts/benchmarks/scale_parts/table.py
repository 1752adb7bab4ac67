"""What the results come to: efficiency, memory beside its prediction, how far losses are apart; PPO and kills."""

from collections.abc import Iterable, Sequence
from typing import Any

from backends_parts.table import difference

from scale_parts.settings import BASE, COMPARED, SETTINGS, key

Result = dict[str, Any]

HEAD = ("setting", "GPUs", "tokens/s", "efficiency", "predicted GiB", "measured GiB", "losses differ by", "run s")


def markdown(results: Sequence[Result]) -> str:
    """All that was measured, with where and how."""
    parts = [_training(results), _ppo(results), _kills(results), _rest(results), _where(results)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def trained(results: Iterable[Result]) -> list[Result]:
    """Results with a speed, in order; of each setting and number of GPUs that of the largest machine."""
    found: dict[tuple[str, int], Result] = {}
    for result in results:
        if result["kind"] == "sft" and "tokens_per_s" in result and "error" not in result:
            place = result["setting"], result["gpus"]
            if place not in found or found[place]["machine"] <= result["machine"]:
                found[place] = result
    order = {setting.name: number for number, setting in enumerate(SETTINGS)}
    return sorted(found.values(), key=lambda result: (order.get(result["setting"], len(order)), result["gpus"]))


def efficiency(result: Result, results: Iterable[Result]) -> float | None:
    """Tokens per second of a GPU over those where there are fewest: weak scaling.

    1B is held against DDP's own run on one GPU, and 8B against the setting's own on the smallest number that it fits
    on; against one of the same machine where there is one. None for what is held against nothing.
    """
    name = BASE.name if result["setting"].split()[0] == BASE.model else result["setting"]
    runs = [each for each in results if each["setting"] == name and "tokens_per_s" in each and "error" not in each]
    if not runs:
        return None
    base = min(runs, key=lambda each: (each["gpus"], each["machine"] != result["machine"]))
    return float(result["tokens_per_s"] / result["gpus"] / (base["tokens_per_s"] / base["gpus"]))


def losses_apart(result: Result, results: Iterable[Result]) -> str:
    """The largest relative difference of the first losses to those of one process on the same rows.

    Where one process has no room for the model, to those of its first setting on as many GPUs, which is named.
    """
    if result["gpus"] == 1:
        return ""
    model, others = result["setting"].split()[0], [each for each in results if each.get("losses")]
    one = [each for each in others if each["setting"] == f"{model} same rows" and each["rows_of"] == result["gpus"]]
    first = [each for each in trained(others) if each["setting"].split()[0] == model and each["gpus"] == result["gpus"]]
    for reference, beside in [*((each, "") for each in one[-1:]), *((each, each["setting"]) for each in first[:1])]:
        apart = difference(result["losses"], reference["losses"], COMPARED)
        if apart is not None and reference["setting"] != result["setting"]:
            return f"{apart:.1e}" + (f" (from {beside})" if beside else "")
    return ""


def _training(results: Sequence[Result]) -> list[str]:
    lines = [f"| {' | '.join(HEAD)} |", "|---|" + "---:|" * (len(HEAD) - 1)]
    for result in trained(results):
        share = efficiency(result, results)
        cells = [
            result["setting"],
            f"{result['gpus']}",
            f"{result['tokens_per_s']:,.0f}",
            "" if share is None else f"{share:.3f}",
            _number(result.get("predicted_gib"), ".1f"),
            _number(result.get("memory_gib"), ".1f"),
            losses_apart(result, results),
            _number(result.get("run_s"), ".0f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def _ppo(results: Iterable[Result]) -> list[str]:
    found = {result["gpus"]: result for result in results if "iteration_s" in result}
    if not found:
        return []
    parts = list(dict.fromkeys(part for result in found.values() for part in result["parts_s"]))
    head = ["PPO, 8B", "GPUs", "completions", "iteration s", *parts, "predicted GiB", "measured GiB"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for gpus, result in sorted(found.items()):
        seconds = [_number(result["parts_s"].get(part), ".2f") for part in parts]
        memory = [_number(result.get(name), ".1f") for name in ("predicted_gib", "memory_gib")]
        cells = ["LoRA, shared base", f"{gpus}", f"{result['completions']}", f"{result['iteration_s']:.2f}"]
        lines.append(f"| {' | '.join([*cells, *seconds, *memory])} |")
    return lines


def _kills(results: Iterable[Result]) -> list[str]:
    return [
        f"- {result['backend']} on {result['gpus']}: a rank was killed {'in' if result['in_a_save'] else 'BESIDE'} a "
        f"save, the run ended after {result['ended_after_s']} s with {result['exit_code']} "
        f"({'naming' if result['named'] else 'NOT naming'} the rank); resumed from step "
        f"{result.get('resumed_from', 'none')} it ended with {result['resumed_exit_code']}, losses differ by "
        f"{_number(result.get('losses_differ'), '.1e')} from those of the unbroken run"
        for result in results
        if "ended_after_s" in result
    ]


def _rest(results: Iterable[Result]) -> list[str]:
    """What was left out, and what failed."""
    last = {(*key(result), result.get("backend")): result for result in results}
    words = {"left_out": "left out, does not fit", "error": "failed"}
    return [
        f"- {result['setting']} on {result['gpus']}: {said}: {result[name]}"
        for result in last.values()
        for name, said in words.items()
        if name in result
    ]


def _where(results: Iterable[Result]) -> list[str]:
    """Devices, days and commands."""
    told = (
        f"{result['machine']} x {result['device']}, {result['date']}: `{result['command']}`"
        for result in results
        if "device" in result
    )
    return list(dict.fromkeys(told))


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
