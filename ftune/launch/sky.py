"""`ftune launch sky`: a task of SkyPilot, which finds nodes in clouds, sets them up and runs a recipe on them."""

import re
from collections.abc import Mapping

from ftune.core.errors import LaunchError, StoppedError
from ftune.launch.job import Job, name_of, render

PORT = 29500
"""Where the nodes meet; they are new machines, so it is free."""


def gpus_of(accelerators: str) -> int:
    """The number in `H100:8`, as SkyPilot writes GPUs of a node; 1 without one. Raises LaunchError otherwise."""
    match = re.fullmatch(r"[A-Za-z][\w.-]*(?::([1-9][0-9]*))?", accelerators)
    if match is None:
        raise LaunchError(f"--gpus: '{accelerators}' is not NAME:COUNT, such as H100:8; 'sky gpus list' shows names")
    return int(match[1] or 1)


def sky_task(
    job: Job,
    *,
    gpus: str,
    volumes: Mapping[str, str],
    setup: str | None = None,
    image: str | None = None,
    infra: str | None = None,
    spot: bool = False,
) -> str:
    """The task as YAML; `volumes` are SkyPilot's volumes by the folder where each is seen.

    Raises LaunchError where the nodes would have no ftune, or the run no storage that outlives them.
    """
    if not setup and not image:
        raise LaunchError("new machines have no ftune: give --image docker:IMAGE that has it, or --setup 'COMMANDS'")
    if not job.output_dir.startswith("/"):
        raise LaunchError(
            f"output_dir: '{job.output_dir}' is on the disk of each node, and goes with it; give a shared folder, such "
            f"as --volume runs:/mnt/runs output_dir=/mnt/runs/{job.recipe.stem}"
        )
    return render(
        "sky.yaml",
        job=job,
        name=name_of(job),
        gpus=gpus,
        infra=infra,
        spot=spot,
        image=image,
        setup=setup,
        volumes=volumes,
        port=PORT,
        stopped=StoppedError.exit_code,
    )
