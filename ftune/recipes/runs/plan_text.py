"""A plan for people, in 80 columns, and for machines."""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ftune.core.several import several
from ftune.plan.selected import selected
from ftune.plan.work import HOUR
from ftune.recipes.runs.plan_changes import pasted
from ftune.recipes.runs.plan_time import steps_of, time_of
from ftune.report.measures import duration_in_words

if TYPE_CHECKING:
    from ftune.plan.phase import Parts
    from ftune.recipes.runs.plan import Plan
    from ftune.recipes.runs.plan_fit import Fitted
    from ftune.recipes.runs.plan_time import Time

WIDTH = 80
NAME = 28
"""Columns of the names."""

GIB = 2**30
SMALLEST = GIB // 100
"""Smaller parts are told together."""

CHECKPOINTING: dict[Any, str] = {
    False: "",
    "selective": "selective activation checkpointing",
    True: "activation checkpointing",
}

VISIBLE = 0.01
"""A difference in arithmetic below is none."""


def headline(plan: "Plan") -> list[str]:
    """What is planned, and what is taken on trust."""
    job, recipe = plan.job, plan.recipe
    method = job.quantization + " " if job.quantization != "none" else ""
    parameters = f"{_count(job.shape.parameters)} parameters"
    model = f"a model of {parameters}, given by hand" if plan.target.by_hand else f"{recipe.model.path}, {parameters}"
    lines = [
        f"{job.kind}: {method}{recipe.peft.type} on {model}, of which {_trained(plan)}",
        f"{_batch(plan)}; {job.dtype}; {_processes(plan)}",
        f"row lengths: {plan.rows.said_by}",
    ]
    lines += [*map(str, plan.chosen), *plan.notes, *_kept(plan)]
    return [part for line in lines for part in wrap(line, WIDTH, subsequent_indent="  ")]


def memory(plan: "Plan") -> list[str]:
    """Memory of each GPU by part, then of the CPU and of a drive."""
    needed = plan.estimate
    lines = [f"{'memory of each GPU' if plan.target.on_gpu else 'memory':<{NAME}}{'GiB':>9}"]
    lines += _parts(needed.parts)
    lines.append(_row(f"peak ({needed.largest.name})", needed.peak))
    if plan.probe is not None and plan.probe.peak is not None:
        off = (needed.peak - plan.probe.peak) / plan.probe.peak
        lines.append(_row("peak of the probe", plan.probe.peak) + f"   predicted: {off:+.0%}")
    if plan.target.on_gpu:
        lines.append(_row("CUDA, NCCL and fragments", needed.reserved))
        lines += [_row("in all", needed.total), *_verdict(plan)]
    for title, parts in (("memory of the CPU, each GPU", needed.host), ("NVMe drive, each GPU", needed.disk)):
        if parts:
            lines += ["", f"{title:<{NAME}}{'GiB':>9}", *_parts(parts)]
    return lines


def timing(plan: "Plan", price: float | None) -> list[str]:
    """Steps, hours and money; nothing where they are not known."""
    steps, time = steps_of(plan), time_of(plan)
    if steps is None:
        return []
    told = several(steps, "iteration" if plan.job.kind == "ppo" else "step")
    if time is None:
        return [told]
    lines = [
        f"time: {_duration(time.hours)} for {told} at {_speed(plan, time)} ({time.said_by}), "
        "without loading, evaluation and saving"
    ]
    if price is not None:
        lines.append(f"cost: about {time.price(price):,.2f} ({time.devices} x {time.hours:.2f} h at {price:g})")
    return [part for line in lines for part in wrap(line, WIDTH, subsequent_indent="  ")]


def cards(plans: Sequence["Plan"]) -> list[str]:
    """What several cards have to say to the same recipe."""
    lines = [f"{'on':<{NAME}}{'needs':>9}{'has':>9}   verdict"]
    for plan in plans:
        gpu = plan.target.gpu
        if gpu is not None:
            said = f"fits, {_gib(plan.margin)} left" if plan.fits else f"too small by {_gib(-plan.margin)}"
            lines.append(f"{gpu.name:<{NAME}}{_gib(plan.estimate.total):>9}{_gib(gpu.usable):>9}   {said}")
            values = {choice.key: choice.value for choice in plan.chosen}
            auto = f"micro-batch {values['micro_batch_size']}" if "micro_batch_size" in values else ""
            with_it = CHECKPOINTING[values.get("activation_checkpointing", False)]
            lines += [f"  with {' and '.join(filter(None, (auto, with_it)))}"] if auto or with_it else []
    return lines


def ladder(fitted: "Fitted") -> list[str]:
    """The changes, what each is worth and costs, and all of them as one line to paste."""
    if not fitted.steps:
        return ["it fits as it is" if fitted.plan.fits else "it does not fit, and nothing is known that would help"]
    lines = [f"{'change':<{NAME}}{'GiB less':>9}   cost"]
    for step in fitted.steps:
        work = f"; arithmetic {step.arithmetic - 1:+.0%}" if abs(step.arithmetic - 1) >= VISIBLE else ""
        cost = wrap(step.change.cost + work, WIDTH - NAME - 12)
        lines.append(f"{step.change.name:<{NAME}}{_gib(step.gain):>9}   {cost[0]}")
        lines += [" " * (NAME + 12) + more for more in cost[1:]]
    gpu = fitted.plan.target.gpu
    total = _gib(fitted.plan.estimate.total)
    if gpu is not None:
        has = f"{total} GiB of {_gib(gpu.usable)}"
        lines += ["", f"fits then: {has}" if fitted.plan.fits else f"does not fit even then: {has}"]
    return [*lines, f"  {pasted(fitted.changes)}"]


def as_dict(plan: "Plan", price: float | None = None) -> dict[str, Any]:
    """For JSON; sizes are bytes, of one process."""
    job, needed, gpu, time = plan.job, plan.estimate, plan.target.gpu, time_of(plan)
    return {
        "kind": job.kind,
        "model": {
            "path": None if plan.target.by_hand else plan.recipe.model.path,
            "family": job.shape.family,
            "parameters": job.shape.parameters,
        },
        "trained": job.trained,
        "dtype": job.dtype,
        "processes": job.spread.world,
        "backend": job.spread.type,
        "micro_batch_size": job.micro_batch_size,
        "accumulation": job.accumulation,
        "activation_checkpointing": job.checkpointing,
        "kept_of_a_token_and_layer": selected(job) if job.checkpointing == "selective" else {},
        "tokens": job.tokens,
        "batch_tokens": job.batch_tokens,
        "rows": {"count": plan.rows.count, "tokens": plan.rows.tokens, "said_by": plan.rows.said_by},
        "parts": dict(needed.parts),
        "phases": {phase.name: phase.bytes for phase in needed.phases},
        "peak": needed.peak,
        "reserved": needed.reserved,
        "total": needed.total,
        "host": dict(needed.host),
        "disk": dict(needed.disk),
        "notes": [*map(str, plan.chosen), *plan.notes],
        "steps": steps_of(plan),
        "hours": time and round(time.hours, 4),
        "share_of_peak": time and time.share,
        "tokens_per_s": time and time.tokens_per_s,
        "probe": plan.probe and {"steps": plan.probe.steps, "seconds": plan.probe.seconds, "peak": plan.probe.peak},
        "cost": round(time.price(price), 2) if time and price is not None else None,
        "gpu": gpu and {"name": gpu.name, "usable": gpu.usable, "fits": plan.fits, "margin": plan.margin},
    }


def _parts(parts: "Parts") -> Iterator[str]:
    rest = sum(size for size in parts.values() if size < SMALLEST)
    for name, size in sorted(parts.items(), key=lambda item: -item[1]):
        if size >= SMALLEST:
            yield _row(f"  {name}", size)
    if rest:
        yield _row("  the rest", rest)


def _row(name: str, size: int) -> str:
    return f"{name:<{NAME}}{_gib(size):>9}"


def _verdict(plan: "Plan") -> list[str]:
    gpu = plan.target.gpu
    if gpu is None:
        return []
    said = f"it fits, {_gib(plan.margin)} are left" if plan.fits else f"it does NOT fit: {_gib(-plan.margin)} missing"
    return [_row(gpu.name, gpu.usable) + f"   {said}"]


def _batch(plan: "Plan") -> str:
    job = plan.job
    rows = several(job.micro_batch_size, "row")
    length = f"{job.tokens:,}" if job.packed or plan.rows.equal else f"up to {job.tokens:,}"
    steps = f", {job.accumulation} times a step" if job.accumulation > 1 else ""
    partly = "partly " if job.checkpointing == "selective" else ""
    again = f", activations {partly}computed again" if job.checkpointing else ""
    together = job.micro_batch_size * job.tokens
    fewer = f" ({job.batch_tokens:,} together)" if job.batch_tokens < together else ""
    return f"{rows} of {length} tokens at once{fewer}{steps}{again}"


def _kept(plan: "Plan") -> Iterator[str]:
    """What selective checkpointing does not compute again."""
    if plan.job.checkpointing == "selective":
        parts = ", ".join(f"{name} {size:,}" for name, size in selected(plan.job).items())
        yield f"kept of each layer beside its input, bytes a token: {parts}"


def _processes(plan: "Plan") -> str:
    spread = plan.job.spread
    if spread.world == 1:
        return "1 process" if spread.type != "zero" else "1 process (zero)"
    stage = f" {spread.stage}" if spread.type == "zero" else ""
    nodes = f" on {spread.nodes} nodes" if spread.nodes > 1 else ""
    return f"{spread.world} processes{nodes} ({spread.type}{stage})"


def _trained(plan: "Plan") -> str:
    return "all train" if plan.job.full else f"{_count(plan.job.trained)} train"


def _duration(hours: float) -> str:
    return f"about {duration_in_words(hours * HOUR)}" if hours * HOUR >= 60 else "less than a minute"


def _speed(plan: "Plan", time: "Time") -> str:
    if time.share is not None:
        return f"{time.share:.0%} of the peak"
    if time.tokens_per_s is not None:
        return f"{time.tokens_per_s:,.0f} tokens a second"
    return f"{time.hours * HOUR / time.steps:,.1f} s each"


def _count(number: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:,}"


def _gib(size: float) -> str:
    gib = size / GIB
    return f"{gib:.2f}" if abs(gib) < 10 else f"{gib:,.1f}"
