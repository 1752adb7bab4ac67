"""What of the `speed` section may make a run fast, by its backend and by how long it is."""

from typing import TYPE_CHECKING

from ftune.plan.work import HOUR
from ftune.recipes.runs.plan_speed import SHORT_S
from ftune.recipes.speed_section import SftSpeed, Speed

if TYPE_CHECKING:
    from ftune.backends.base import Backend
    from ftune.recipes.runs.plan_time import Time
    from ftune.trainers.speed import Wanted

SHORT_RUN = "the run is short ('speed.compiled_layers: on' compiles)"


def wanted_of(asked: Speed, backend: "Backend", time: "Time | None", *, on_gpu: bool) -> "Wanted":
    """What may make the run fast: what the recipe leaves on, and what the backend lets be changed in a model.

    `time` is what the run is predicted to take.
    """
    from ftune.trainers.speed import Wanted

    fused_loss, fp8 = (asked.fused_loss, asked.fp8) if isinstance(asked, SftSpeed) else ("auto", "off")
    whole = f"the backend '{backend.name}' has the weights in parts" if backend.shards() else True
    left_open = asked.compiled_layers == "auto" and fp8 == "off"
    short = on_gpu and left_open and time is not None and time.hours * HOUR < SHORT_S
    return Wanted(
        packed_attention=asked.packed_attention != "off",
        fused_loss=fused_loss != "off",
        folded_lora=asked.folded_lora != "off" and whole,
        compiled_layers=asked.compiled_layers != "off" and (SHORT_RUN if short else whole),
        fp8=None if fp8 == "off" else fp8,
    )
