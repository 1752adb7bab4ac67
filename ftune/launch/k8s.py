"""`ftune launch k8s`: a TrainJob of Kubeflow Trainer that runs a recipe in the pods of a Kubernetes cluster."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from ftune.core.errors import LaunchError
from ftune.launch.job import Job, name_of, render

RUNTIME = "torch-distributed"
"""The runtime for PyTorch that comes with Kubeflow Trainer; it sets the variables PET_*, as torchrun names them."""


def train_job(
    job: Job,
    *,
    image: str,
    claims: Mapping[str, str],
    workdir: str | None = None,
    namespace: str | None = None,
    runtime: str = RUNTIME,
) -> str:
    """The manifest as YAML.

    `claims` are the persistent volume claims by the folder where each is seen in the pods, `workdir` the folder there
    in which ftune runs, by default that of the first claim. Raises LaunchError where none is known.
    """
    folder = workdir or next(iter(claims), None)
    if folder is None or not folder.startswith("/"):
        raise LaunchError("give --pvc CLAIM:FOLDER, storage that all pods share, or --workdir /FOLDER where it is")
    return render(
        "k8s.yaml",
        job=job,
        name=name_of(job),
        namespace=namespace,
        runtime=runtime,
        image=image,
        workdir=folder,
        shared=str(PurePosixPath(folder) / job.output_dir),
        claims=claims,
    )
