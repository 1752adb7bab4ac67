"""`ftune launch slurm`: an sbatch script that runs a recipe on nodes of a Slurm cluster, and goes on after a stop."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ftune.core.errors import LaunchError, StoppedError
from ftune.core.world import FIRST_PORT, PORTS
from ftune.launch.job import Job, name_of, one_word, render

NOTICE_S = 180
"""From Slurm's signal to the end of the job's time; Slurm may send it up to 60 s earlier."""

GRACE_S = 20
"""How long a node whose run failed leaves the others to end by themselves, before srun kills them."""


@dataclass(frozen=True, slots=True)
class Container:
    """An image in which each node runs ftune, by the options that the pyxis plugin (enroot) adds to srun.

    Of the ways to run containers under Slurm it is the commonest on GPU clusters, and the one that needs no command of
    its own around ftune's.
    """

    image: str
    """A reference such as `nvcr.io#nvidia/pytorch:26.01-py3`, or a `.sqsh` file."""
    mounts: tuple[str, ...] = ()
    """Folders of the node that are seen inside, `HOST:CONTAINER`, besides the working folder."""

    def words(self, workdir: Path) -> list[str]:
        """The options of srun."""
        mounts = [f"{workdir}:{workdir}", *self.mounts]
        return [
            f"--container-image={self.image}",
            f"--container-mounts={','.join(mounts)}",
            f"--container-workdir={workdir}",
        ]


def slurm_script(
    job: Job,
    *,
    workdir: Path,
    programs: Path | None,
    options: Mapping[str, str | None],
    container: Container | None = None,
) -> str:
    """The script as text.

    `workdir` is the folder on shared storage in which the job runs, `programs` the folder of the `ftune` that is to
    run (None: what PATH or the container has), `options` those of sbatch (`partition`, `time`, ...) where given; of
    these, `job-name` stands instead of the recipe's name.
    """
    given = {option: value for option, value in options.items() if one_word(f"--{option}", value) is not None}
    srun = container.words(workdir) if container else []
    if "cpus-per-task" in given:  # since Slurm 22.05 srun does not take it over from sbatch
        srun.insert(0, f"--cpus-per-task={given['cpus-per-task']}")
    return render(
        "slurm.sh",
        job=job,
        name=given.pop("job-name", None) or name_of(job),
        options=given,
        workdir=str(workdir),
        shared=str(workdir / job.output_dir),
        path=None if programs is None or container else str(programs),
        srun=srun,
        first_port=FIRST_PORT,
        ports=PORTS,
        notice_s=NOTICE_S,
        grace_s=GRACE_S,
        stopped=StoppedError.exit_code,
    )


def programs() -> Path | None:
    """The folder of the `ftune` that runs here, so that jobs run the same; None where there is no such program."""
    folder = Path(sys.executable).parent
    return folder if (folder / "ftune").exists() else None


def submit(script: Path) -> str:
    """Send a script with sbatch; gives the number of the job. Raises LaunchError where that fails."""
    if shutil.which("sbatch") is None:
        raise LaunchError(f"sbatch: no such program on this machine; send it from a login node: sbatch {script}")
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise LaunchError(f"{script}: sbatch refused it: {said}")
    return done.stdout.strip().partition(";")[0]
