"""A picture of efficiency over the number of GPUs, a panel for each model."""

from collections.abc import Sequence
from pathlib import Path

from scale_parts.table import Result, efficiency, trained

MARKERS = "osD^v"


def draw(results: Sequence[Result], png: Path) -> bool:
    """Draw what was measured on several numbers of GPUs; False and no file where nothing was."""
    measured = trained(results)
    models = list(dict.fromkeys(result["setting"].split()[0] for result in measured))
    if not models:
        return False
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from ftune.report.curves import BLUE, GREY, INK, ORANGE, PURPLE, STYLE

    colors = (BLUE, ORANGE, PURPLE, INK)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.8 * len(models), 3.4), layout="constrained")
        for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
            of_model = [result for result in measured if result["setting"].split()[0] == model]
            axes.axhline(1.0, color=GREY, linewidth=0.8)
            for number, setting in enumerate(dict.fromkeys(result["setting"] for result in of_model)):
                points = [
                    (result["gpus"], share)
                    for result in of_model
                    if result["setting"] == setting and (share := efficiency(result, results)) is not None
                ]
                look = {"color": colors[number % len(colors)], "marker": MARKERS[number % len(MARKERS)]}
                axes.plot(*zip(*points, strict=True), label=setting.removeprefix(model).strip(), **look)
            ticks = sorted({result["gpus"] for result in of_model})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.set_ylim(bottom=0)
            axes.set(xlabel="GPUs", ylabel="tokens per second and GPU, relative")
            axes.set_title(f"{model}, full fine-tuning", loc="left")
            axes.legend(loc="lower left")
        png.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(png, dpi=140)
    return True
