"""`ftune launch`: one node's share of a run, the configuration of accelerate, and scripts for clusters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftune.cli.sft import Overrides, Overwrite, RecipePath, Resume

if TYPE_CHECKING:
    from ftune.launch.job import Job

app = typer.Typer(help="Run a recipe on several nodes: by hand, or by a script for a cluster.", no_args_is_help=True)

CLUSTER, CONTAINER, FILE = "Cluster", "Container", "File"
"""Panels of the help pages."""

Text = str | None
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="How many nodes.", show_default=False)]
Gpus = Annotated[int, typer.Option("--gpus-per-node", min=1, help="GPUs of each node.", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="File to write.", show_default="the recipe's name", rich_help_panel=FILE),
]
Print = Annotated[bool, typer.Option("--print", help="Print it instead of writing a file.", rich_help_panel=FILE)]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.", rich_help_panel=FILE)]


@app.command()
def node(
    recipe: RecipePath,
    overrides: Overrides = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, help="How many nodes.", show_default="backend.num_nodes")
    ] = None,
    node_rank: Annotated[
        int | None, typer.Option("--node-rank", min=0, help="Which one this is; 0 is the first.", show_default=False)
    ] = None,
    address: Annotated[
        Text, typer.Option("--address", metavar="HOST:PORT", help="Of the first node; the same on all.")
    ] = None,
    num_processes: Annotated[
        int | None, typer.Option("--num-processes", min=1, help="On each node.", show_default="one a GPU")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Start one node's share of a run: on each node the same command, with another --node-rank.

    What is not given is taken from the variables of Slurm, torchrun and Kubeflow where they are set.

    The folder of the run has to be on storage that all nodes share.

    Example: ftune launch node my.yaml --nodes 2 --node-rank 0 --address gpu01:29500
    """
    from ftune.launch.node import start_node

    code = start_node(
        recipe,
        overrides or (),
        nodes=nodes,
        node_rank=node_rank,
        address=address,
        num_processes=num_processes,
        resume=resume,
        overwrite=overwrite,
    )
    raise typer.Exit(code)


@app.command()
def accelerate(
    recipe: RecipePath,
    overrides: Overrides = None,
    folder: Annotated[Path, typer.Option("--output", help="Folder to write into.")] = Path(),
) -> None:
    """Write the configuration of accelerate, and DeepSpeed's, that says the same as a recipe.

    ftune itself does not need it: it is for 'accelerate launch' and for other programs.

    Example: ftune launch accelerate my.yaml
    """
    from ftune.core.say import Say
    from ftune.launch.accelerate import command_line, write_config
    from ftune.recipes.load import load_recipe

    loaded = load_recipe(None, recipe, overrides or ())
    config = write_config(loaded.recipe, folder)
    Say().line(f"wrote {config}; to start it: {command_line(config, loaded.recipe, recipe, overrides or ())}")


@app.command()
def slurm(
    recipe: RecipePath,
    nodes: Nodes,
    gpus_per_node: Gpus,
    overrides: Overrides = None,
    submit: Annotated[bool, typer.Option("--submit", help="Send it with sbatch and print the job's number.")] = False,
    partition: Annotated[
        Text, typer.Option("--partition", help="These are handed to sbatch as they are.", rich_help_panel=CLUSTER)
    ] = None,
    time: Annotated[
        Text,
        typer.Option("--time", help="Longest time, as 1-00:00:00; the run goes on after.", rich_help_panel=CLUSTER),
    ] = None,
    account: Annotated[Text, typer.Option("--account", help="Who pays.", rich_help_panel=CLUSTER)] = None,
    qos: Annotated[Text, typer.Option("--qos", help="Quality of service.", rich_help_panel=CLUSTER)] = None,
    cpus: Annotated[Text, typer.Option("--cpus-per-task", help="Cores of each node.", rich_help_panel=CLUSTER)] = None,
    memory: Annotated[
        Text, typer.Option("--mem", help="Memory of each node; 0 is all.", rich_help_panel=CLUSTER)
    ] = None,
    job_name: Annotated[
        Text, typer.Option("--job-name", show_default="the recipe's", help="Its name.", rich_help_panel=CLUSTER)
    ] = None,
    container: Annotated[
        Text, typer.Option("--container", metavar="IMAGE", help="Image with ftune (pyxis).", rich_help_panel=CONTAINER)
    ] = None,
    mounts: Annotated[
        list[str] | None,
        typer.Option(
            "--mount",
            metavar="HOST:CONTAINER",
            help="A folder to see in it, beside this one.",
            rich_help_panel=CONTAINER,
        ),
    ] = None,
    output: Output = None,
    print_: Print = False,
    overwrite: Replace = False,
) -> None:
    """Write an sbatch script that trains on nodes of a Slurm cluster, and goes on when it was stopped.

    Call it in a folder on storage that the nodes share: the job runs there.

    Example: ftune launch slurm my.yaml --nodes 4 --gpus-per-node 8 --time 12:00:00 --submit
    """
    from ftune.core.errors import LaunchError
    from ftune.launch.slurm import Container, programs, slurm_script
    from ftune.launch.slurm import submit as send

    if submit and print_:
        raise LaunchError("--submit and --print: choose one")
    if mounts and not container:
        raise LaunchError("--mount: there is no container to see it in; give --container IMAGE too")
    options = {"partition": partition, "time": time, "account": account, "qos": qos}
    script = slurm_script(
        _job(recipe, overrides, nodes, gpus_per_node, shares_files=True),
        workdir=Path.cwd(),
        programs=programs(),
        options={"job-name": job_name, **options, "cpus-per-task": cpus, "mem": memory},
        container=Container(container, tuple(mounts or ())) if container else None,
    )
    file = output or Path(f"{recipe.stem}.sbatch")
    _hand_over(script, file, None if submit else f"sbatch {file}", show=print_, overwrite=overwrite)
    if submit:
        typer.echo(send(file))


@app.command()
def k8s(
    recipe: RecipePath,
    nodes: Nodes,
    gpus_per_node: Gpus,
    image: Annotated[str, typer.Option("--image", help="Image that has ftune.", show_default=False)],
    overrides: Overrides = None,
    claims: Annotated[
        list[str] | None, typer.Option("--pvc", metavar="CLAIM:FOLDER", help="Shared storage, and where pods see it.")
    ] = None,
    workdir: Annotated[
        Text, typer.Option("--workdir", help="Folder in the pods with the recipe.", show_default="the first PVC's")
    ] = None,
    namespace: Annotated[
        Text, typer.Option("--namespace", help="Of the job.", show_default="kubectl's", rich_help_panel=CLUSTER)
    ] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", help="Training runtime for PyTorch.", rich_help_panel=CLUSTER)
    ] = "torch-distributed",
    output: Output = None,
    print_: Print = False,
    overwrite: Replace = False,
) -> None:
    """Write a TrainJob of Kubeflow Trainer that trains on nodes of a Kubernetes cluster.

    Example: ftune launch k8s my.yaml --nodes 2 --gpus-per-node 8 --image me/ftune:1 --pvc work:/work
    """
    from ftune.launch.job import mounts_of
    from ftune.launch.k8s import train_job

    job = _job(recipe, overrides, nodes, gpus_per_node)
    folders = mounts_of("--pvc", claims or [])
    manifest = train_job(job, image=image, claims=folders, workdir=workdir, namespace=namespace, runtime=runtime)
    file = output or Path(f"{recipe.stem}.k8s.yaml")
    _hand_over(manifest, file, f"kubectl apply -f {file}", show=print_, overwrite=overwrite)


@app.command()
def sky(
    recipe: RecipePath,
    nodes: Nodes,
    gpus: Annotated[str, typer.Option("--gpus", metavar="NAME:COUNT", help="Of each node.", show_default=False)],
    overrides: Overrides = None,
    image: Annotated[Text, typer.Option("--image", help="Such as docker:IMAGE; one that has ftune.")] = None,
    setup: Annotated[Text, typer.Option("--setup", help="Or commands that install ftune on a node.")] = None,
    volumes: Annotated[
        list[str] | None, typer.Option("--volume", metavar="NAME:FOLDER", help="A volume, and where nodes see it.")
    ] = None,
    infra: Annotated[
        Text, typer.Option("--infra", help="Where, such as aws/us-east-1 or k8s.", rich_help_panel=CLUSTER)
    ] = None,
    spot: Annotated[
        bool, typer.Option("--spot", help="Cheaper nodes that may be taken away.", rich_help_panel=CLUSTER)
    ] = False,
    output: Output = None,
    print_: Print = False,
    overwrite: Replace = False,
) -> None:
    """Write a task of SkyPilot, which rents nodes, sets them up and trains on them.

    Example: ftune launch sky my.yaml output_dir=/r/my --volume r:/r --nodes 2 --gpus H100:8 --image docker:me/f
    """
    from ftune.launch.job import mounts_of
    from ftune.launch.sky import gpus_of, sky_task

    job = _job(recipe, overrides, nodes, gpus_of(gpus))
    folders = mounts_of("--volume", volumes or [])
    task = sky_task(job, gpus=gpus, volumes=folders, setup=setup, image=image, infra=infra, spot=spot)
    file = output or Path(f"{recipe.stem}.sky.yaml")
    _hand_over(task, file, f"sky jobs launch {file}", show=print_, overwrite=overwrite)


def _job(
    recipe: Path, overrides: list[str] | None, nodes: int, gpus_per_node: int, *, shares_files: bool = False
) -> "Job":
    from ftune.launch.job import DEVICES, FILES, job_of
    from ftune.recipes.load import load_recipe

    elsewhere = DEVICES if shares_files else DEVICES | FILES
    return job_of(load_recipe(None, recipe, overrides or (), elsewhere=elsewhere), nodes, gpus_per_node)


def _hand_over(text: str, file: Path, command: str | None, *, show: bool, overwrite: bool) -> None:
    """Print a script, or write its file and say what to type next; a file with other content stays unless asked for."""
    from ftune.core.errors import LaunchError
    from ftune.core.say import Say

    if show:
        typer.echo(text, nl=False)
        return
    try:
        if not overwrite and file.exists() and file.read_text(encoding="utf-8") != text:
            raise LaunchError(
                f"{file}: is there with other content; --overwrite replaces it, --output writes elsewhere"
            )
        file.write_text(text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(f"{file}: cannot be written: {error}; give another --output") from None
    Say().line(f"wrote {file}" + (f"; to start it: {command}" if command else ""))
