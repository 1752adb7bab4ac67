"""What a process reads from a launcher's environment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import LaunchError
from ftune.core.world import FIRST_PORT, PORTS, World, export_slurm, first_host, joined, slurm_port, variables

SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    nodes, local_count = draw(st.integers(1, 64)), draw(st.integers(1, 8))
    rank = draw(st.integers(0, nodes * local_count - 1))
    node, local_rank = divmod(rank, local_count)
    return World(rank, nodes * local_count, local_rank, local_count, nodes, node, "torchrun")


@given(worlds())
def test_a_world_in_torchruns_words_is_read_back(world: World) -> None:
    assert joined(variables(world, "gpu01", 29500)) == world


@given(worlds())
def test_without_its_local_words_a_rank_is_one_of_a_single_node(world: World) -> None:
    assert joined({"RANK": str(world.rank), "WORLD_SIZE": str(world.count)}) == World(
        world.rank, world.count, world.rank, world.count, 1, 0, "torchrun"
    )


def test_who_launched() -> None:
    given = variables(World(0, 2, 0, 2, 1, 0, "torchrun"), "127.0.0.1", 29500)
    found = [joined({**given, **more}) for more in ({}, {"ACCELERATE_MIXED_PRECISION": "no"}, {"FTUNE_LAUNCHER": "1"})]
    assert [world.launcher for world in found if world] == ["torchrun", "accelerate", "ftune"]
    assert joined({}) is None
    assert joined({"ACCELERATE_MIXED_PRECISION": "bf16"}) == World(0, 1, 0, 1, 1, 0, "accelerate")


def test_srun_says_it_in_words_of_its_own() -> None:
    world = World(11, 16, 3, 8, 2, 1, "slurm")
    assert joined(SRUN) == world
    exported = dict(SRUN)
    export_slurm(exported)
    assert exported == {**SRUN, **variables(world, "gpu03", slurm_port(SRUN))}
    chosen = {**SRUN, "MASTER_ADDR": "ib-gpu03", "MASTER_PORT": "31000"}
    export_slurm(chosen)
    assert (chosen["MASTER_ADDR"], chosen["MASTER_PORT"]) == ("ib-gpu03", "31000")
    assert joined(exported | {"SLURM_PROCID": "0"}) == World(11, 16, 3, 8, 2, 1, "torchrun")


@pytest.mark.parametrize("tasks", ["", "1"])
def test_a_single_task_and_a_batch_script_stand_alone(tasks: str) -> None:
    given = {**SRUN, "SLURM_STEP_NUM_TASKS": tasks}
    assert joined(given) is None
    export_slurm(given)
    assert "RANK" not in given


@given(st.integers(0, 2**32), st.integers(0, 2**16))
def test_a_port_of_slurm_is_in_its_range_and_not_that_of_the_next_job(job: int, step: int) -> None:
    def port(job: int, step: int) -> int:
        return slurm_port({"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})

    assert FIRST_PORT <= port(job, step) < FIRST_PORT + PORTS
    assert len({port(job, step), port(job + 1, step), port(job, step + 1)}) == 3


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu03", "gpu03"),
        ("gpu03,gpu05", "gpu03"),
        ("gpu[03-06,11],login1", "gpu03"),
        ("gpu[7]", "gpu7"),
        ("rack1-gpu[003-004].cluster,x", "rack1-gpu003.cluster"),
    ],
)
def test_the_first_host_of_slurms_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK 2 of WORLD_SIZE 2"),
        ({"RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2"}, "2 a node"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "0"}, "0 a node"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK: 'x' is no number"),
        ({"RANK": "²", "WORLD_SIZE": "4"}, "RANK: '²' is no number"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "15"}, "15 tasks to 2 nodes"),
        ({**SRUN, "SLURM_STEP_NUM_NODES": "0"}, "16 tasks to 0 nodes"),
    ],
)
def test_a_world_that_cannot_be_is_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        joined(given)


def test_a_list_without_hosts_is_refused() -> None:
    with pytest.raises(LaunchError, match="set MASTER_ADDR"):
        first_host("")
