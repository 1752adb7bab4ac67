"""A picture of efficiency over the number of GPUs, a panel for each model that was measured on several numbers."""

from collections.abc import Sequence
from pathlib import Path

from scale_parts.table import Result, efficiency, trained

MARKERS = "osD^v"


def draw(results: Sequence[Result], png: Path) -> bool:
    """Draw the efficiency of all settings; False and no file where none was measured."""
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for result in trained(results):
        model, _, name = result["setting"].partition(" ")
        if (share := efficiency(result, results)) is not None:
            points.setdefault(model, {}).setdefault(name, []).append((result["gpus"], share))
    points = {model: lines for model, lines in points.items() if len(_gpus(lines)) > 1}
    if not points:
        return False
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from ftune.report.curves import BLUE, GREY, INK, ORANGE, PURPLE, STYLE

    looks = list(zip((BLUE, ORANGE, PURPLE, INK, GREY), MARKERS, strict=True))
    names = list(dict.fromkeys(name for of_model in points.values() for name in of_model))
    highest = max(share for of_model in points.values() for line in of_model.values() for _, share in line)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.8 * len(points), 3.4), layout="constrained")
        charts = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
        for axes, (model, lines) in zip(charts, points.items(), strict=True):
            axes.axhline(1.0, color=GREY, linewidth=0.8)
            for name, line in lines.items():
                color, marker = looks[names.index(name) % len(looks)]
                axes.plot(*zip(*line, strict=True), color=color, marker=marker, label=name)
            ticks = sorted(_gpus(lines))
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.set_ylim(0, 1.1 * max(1.0, highest))
            axes.set_xlabel("GPUs")
            axes.set_title(f"{model}, full fine-tuning", loc="left")
            axes.legend(loc="lower left")
        charts[0].set_ylabel("efficiency")
        png.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(png, dpi=140)
    return True


def _gpus(lines: dict[str, list[tuple[int, float]]]) -> set[int]:
    return {gpus for line in lines.values() for gpus, _ in line}
