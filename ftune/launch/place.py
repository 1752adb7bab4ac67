"""Which node of a run this is and where its processes meet: from the command line, else from what the cluster sets."""

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import SystemRandom

from ftune.core.errors import LaunchError
from ftune.core.world import FIRST_PORT, PORTS, first_host, number, slurm_port

DEFAULT_PORT = 29500
"""That of torchrun."""

RESOLVING_S = 120.0
"""How long a name may take to appear: in Kubernetes it does so when the pod has got its address."""

NODES = ("PET_NNODES", "SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES", "NNODES")
NODE = ("PET_NODE_RANK", "SLURM_NODEID", "NODE_RANK")
HOST = ("PET_MASTER_ADDR", "MASTER_ADDR")
PORT = ("PET_MASTER_PORT", "MASTER_PORT")
SLURM_HOSTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
PROCESSES = ("PET_NPROC_PER_NODE",)
"""Variables that say the same; the first that is set counts. PET_* are torchrun's, and Kubeflow Trainer sets them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands in a run."""

    nodes: int
    node: int
    """From 0 to `nodes` - 1."""
    host: str
    """The name or address of node 0, where the processes meet."""
    port: int


def place_of(
    given: Mapping[str, str],
    *,
    nodes: int | None = None,
    node: int | None = None,
    address: str | None = None,
    otherwise: int = 1,
) -> Place:
    """The place that the arguments and, for those that are None, the variables in `given` say.

    Where nobody says how many nodes there are, there are `otherwise`. Raises LaunchError for what is missing or cannot
    be.
    """
    count = nodes if nodes is not None else _number(given, NODES)
    count = otherwise if count is None else count
    if count < 1:
        raise LaunchError(f"--nodes: {count}; give a number of 1 or more")
    if count == 1:
        return Place(1, 0, "127.0.0.1", free_port())
    _one_task_a_node(given)
    if node is None:
        node = _number(given, NODE)
    if node is None:
        raise LaunchError(f"which of the {count} nodes this is was not said; give --node-rank K, 0 on the first node")
    if not 0 <= node < count:
        raise LaunchError(f"--node-rank: {node} of {count} nodes; give a number from 0 to {count - 1}")
    host, port = _split(address) if address else ("", None)
    host = host or _first(given, HOST) or (first_host(hosts) if (hosts := _first(given, SLURM_HOSTS)) else "")
    if not host:
        raise LaunchError("where node 0 is was not said; give --address HOST:PORT, the same on all nodes")
    if port is None:
        port = _number(given, PORT) or (slurm_port(given) if "SLURM_JOB_ID" in given else DEFAULT_PORT)
    return Place(count, node, host, port)


def processes_of(given: Mapping[str, str]) -> int | None:
    """Processes on each node as torchrun's variables say; None for nothing, or for a word such as `auto`."""
    return _number(given, PROCESSES) if _first(given, PROCESSES).isdecimal() else None


def check_meeting_point(place: Place, patience_s: float = RESOLVING_S) -> None:
    """See that the port is free on node 0, and on the others that its name leads somewhere. Raises LaunchError."""
    if place.node == 0:
        if not is_free(place.port):
            raise LaunchError(
                f"port {place.port} of this node is taken; choose another one, the same on all nodes: "
                f"--address {place.host}:PORT"
            )
        return
    deadline = time.monotonic() + patience_s
    while True:
        try:
            socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except OSError as error:
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"node {place.node} does not know the host '{place.host}' of node 0 ({error.strerror}); "
                    f"give an address that all nodes can reach: --address HOST:PORT"
                ) from None
            time.sleep(1.0)
        else:
            return


def is_free(port: int) -> bool:
    """Whether this machine can listen at a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the rest of an ended run is no hindrance
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port to listen at, out of a range that no outgoing connection takes meanwhile."""
    for port in SystemRandom().sample(range(FIRST_PORT, FIRST_PORT + PORTS), PORTS):
        if is_free(port):
            return port
    raise LaunchError(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} of this machine is free")


def _split(address: str) -> tuple[str, int | None]:
    """Host and port of `host:port`, `host` or `[2001:db8::1]:port`."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\[\]:\s]+))(?::([0-9]{1,5}))?", address)
    port = int(match[3]) if match and match[3] else None
    if match is None or (port is not None and not 0 < port < 2**16):
        raise LaunchError(f"--address: '{address}' is no HOST:PORT, such as gpu01:29500 or [2001:db8::1]:29500")
    return match[1] or match[2], port


def _one_task_a_node(given: Mapping[str, str]) -> None:
    tasks, nodes = number(given, "SLURM_STEP_NUM_TASKS", 1), number(given, "SLURM_STEP_NUM_NODES", 1)
    if tasks > nodes:
        raise LaunchError(
            f"srun started this {tasks} times on {nodes} nodes, and each starts all processes of its node; "
            f"use srun --ntasks-per-node=1"
        )


def _first(given: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := given.get(name, ""))), "")


def _number(given: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    return next((number(given, name, 0) for name in names if given.get(name)), None)
