"""Which node this is and where the processes meet, from arguments and from what clusters set."""

import socket
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import LaunchError
from ftune.core.world import FIRST_PORT, PORTS, slurm_port
from ftune.launch.place import Place, check_meeting_point, free_port, is_free, place_of, processes_of

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_NNODES": "4",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NODEID": "3",
    "SLURM_PROCID": "3",
    "SLURM_JOB_NODELIST": "gpu[03-06]",
    "SLURM_STEP_NODELIST": "gpu[03-06]",
}
KUBEFLOW = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "8",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "job-node-0-0.job",
    "PET_MASTER_PORT": "29500",
}
PLAIN = {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "8008"}
HOSTS = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1)


def test_what_clusters_set() -> None:
    assert place_of(SLURM) == Place(4, 3, "gpu03", slurm_port(SLURM))
    assert place_of(KUBEFLOW) == Place(2, 1, "job-node-0-0.job", 29500)
    assert place_of(PLAIN) == Place(3, 2, "10.0.0.1", 8008)
    assert place_of({**SLURM, **KUBEFLOW, **PLAIN}) == place_of(KUBEFLOW)


def test_a_step_on_a_part_of_the_job_has_the_nodes_of_the_step() -> None:
    part = {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "1"}
    found = place_of({**SLURM, **part, "SLURM_STEP_NODELIST": "gpu[05-06]"})
    assert (found.nodes, found.node, found.host) == (2, 1, "gpu05")


@given(st.integers(2, 512), st.data(), HOSTS, st.integers(1, 65535), st.sampled_from([{}, SLURM, KUBEFLOW, PLAIN]))
def test_arguments_win_over_what_is_set(
    nodes: int, data: st.DataObject, host: str, port: int, environment: dict[str, str]
) -> None:
    node = data.draw(st.integers(0, nodes - 1))
    wanted = Place(nodes, node, host, port)
    assert place_of(environment, nodes=nodes, node=node, address=f"{host}:{port}") == wanted


@pytest.mark.parametrize("environment", [{}, SLURM, KUBEFLOW])
def test_one_node_meets_at_home(environment: dict[str, str]) -> None:
    found = place_of(environment, nodes=1)
    assert (found.nodes, found.node, found.host) == (1, 0, "127.0.0.1")
    assert found.port in range(FIRST_PORT, FIRST_PORT + PORTS)


def test_addresses() -> None:
    assert place_of({}, nodes=2, node=0, address="[2001:db8::1]:29501") == Place(2, 0, "2001:db8::1", 29501)
    assert place_of({}, nodes=2, node=0, address="gpu01") == Place(2, 0, "gpu01", 29500)
    assert place_of(SLURM, address="ib-gpu03").port == slurm_port(SLURM)


@pytest.mark.parametrize(
    ("environment", "arguments", "words"),
    [
        ({}, {"nodes": 0}, "--nodes: 0"),
        ({}, {"nodes": 2}, "which of the 2 nodes .* --node-rank"),
        ({}, {"nodes": 2, "node": 2}, "--node-rank: 2 of 2 nodes; give a number from 0 to 1"),
        ({}, {"nodes": 2, "node": -1}, "--node-rank: -1"),
        ({}, {"nodes": 2, "node": 0}, "where node 0 is .* --address"),
        ({}, {"nodes": 2, "node": 0, "address": "a:b:c"}, "'a:b:c' is no HOST:PORT"),
        ({}, {"nodes": 2, "node": 0, "address": "a:70000"}, "'a:70000' is no HOST:PORT"),
        ({}, {"nodes": 2, "node": 0, "address": ":1"}, "':1' is no HOST:PORT"),
        ({**KUBEFLOW, "PET_NNODES": "1:4"}, {}, "PET_NNODES: '1:4' is no number"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "32"}, {}, "32 times on 4 nodes.*--ntasks-per-node=1"),
    ],
)
def test_what_is_missing_or_cannot_be_is_said(
    environment: dict[str, str], arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(LaunchError, match=words):
        place_of(environment, **arguments)  # type: ignore[arg-type]


def test_processes_of_a_node() -> None:
    assert processes_of(KUBEFLOW) == 8
    assert processes_of({"PET_NPROC_PER_NODE": "auto"}) is None
    assert processes_of({}) is None


def test_the_meeting_point_must_be_free_on_node_0_and_known_on_the_others() -> None:
    port = free_port()
    check_meeting_point(Place(2, 0, "anything", port))
    with socket.create_server(("", port)):
        assert not is_free(port)
        with pytest.raises(LaunchError, match=f"port {port} of this node is taken"):
            check_meeting_point(Place(2, 0, "gpu01", port))
        check_meeting_point(Place(2, 1, "localhost", port))
    assert is_free(port)
    with pytest.raises(LaunchError, match=r"node 1 does not know the host 'nowhere\.invalid' of node 0"):
        check_meeting_point(Place(2, 1, "nowhere.invalid", port), patience_s=0)


def test_a_port_is_free_though_connections_of_an_ended_run_linger() -> None:
    """The side that closes first keeps the pair of addresses for a minute."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        client = socket.create_connection(("127.0.0.1", port))
        peer, _ = server.accept()
        peer.close()
        client.close()
    assert is_free(port)
