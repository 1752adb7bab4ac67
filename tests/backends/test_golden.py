"""The configurations that are generated, as they are kept; and accelerate's and DeepSpeed's own parsers of them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftune.backends.auto import Auto
from ftune.core.world import World
from tests.backends.cases import CASES, GOLDEN, files_of, shape_of

DEEPSPEED = [case for case in CASES if case.startswith("zero")]
LAUNCHED = [case for case in CASES if not case.endswith("-1")]


def world_of(case: str) -> World:
    shape = shape_of(case)
    return World(0, shape.world_size, 0, shape.processes, shape.nodes, 0, "accelerate")


@pytest.mark.parametrize("case", CASES)
def test_it_is_as_it_was(case: str) -> None:
    for name, text in files_of(case).items():
        assert (GOLDEN / name).read_text(encoding="utf-8") == text


def test_no_file_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {name for case in CASES for name in files_of(case)}


@pytest.fixture(scope="module")
def launched() -> Callable[[str], tuple[Any, dict[str, str]]]:
    """What `accelerate launch` makes of a case: its arguments, and the environment for the processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import (
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    def launch(case: str) -> tuple[Any, dict[str, str]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(GOLDEN)
            for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
                patch.delenv(name)
            rank = ["--main_process_ip", "10.0.0.1", "--main_process_port", "29555", "--machine_rank", "0"]
            args = launch_command_parser().parse_args(["--config_file", f"{case}.yaml", *rank, "-m", "ftune"])
            args, defaults, from_file = _validate_launch_command(args)
            if args.use_deepspeed:
                fields = [*defaults.deepspeed_config, *(["mixed_precision"] if from_file else [])]
                args.deepspeed_fields_from_accelerate_config = ",".join(fields)
                return args, prepare_deepspeed_cmd_env(args)[1]
            if args.use_fsdp or args.multi_gpu:
                return args, prepare_multi_gpu_env(args)
            return args, prepare_simple_launcher_cmd_env(args)[1]

    return launch


@pytest.mark.parametrize("case", CASES)
def test_accelerate_reads_the_same_numbers(case: str, launched: Callable[[str], tuple[Any, dict[str, str]]]) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    backend, shape = CASES[case][0], shape_of(case)
    config = load_config_from_file(str(GOLDEN / f"{case}.yaml"))
    assert (config.num_processes, config.num_machines, config.use_cpu) == (shape.world_size, shape.nodes, False)
    args, environment = launched(case)
    assert (args.use_deepspeed, args.use_fsdp) == (backend.name == "zero", backend.name == "fsdp")
    if shape.world_size > 1:
        assert int(args.nproc_per_node) == shape.processes
    if backend.name != "zero":  # whose precision stands in DeepSpeed's file
        assert environment["ACCELERATE_MIXED_PRECISION"] == shape.mixed_precision
    if backend.name == "fsdp":
        assert environment["FSDP_VERSION"] == "2"


@pytest.mark.parametrize("case", LAUNCHED)
def test_auto_under_accelerate_is_the_backend_that_the_file_was_made_from(
    case: str, launched: Callable[[str], tuple[Any, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(GOLDEN)
    _, environment = launched(case)
    backend, shape = CASES[case][0], shape_of(case)
    found = Auto().resolve(world_of(case), environment, gpus=8)
    here = {"num_processes": shape.processes, "num_nodes": shape.nodes}
    assert found.model_dump() == backend.model_dump() | here
    assert found.contradictions(world_of(case), environment, shape) == []


@pytest.fixture(scope="module")
def deepspeed_reads() -> Iterator[Callable[[Path, int], Any]]:
    """DeepSpeed's own reading of a file, in a world of that many processes of which only this one is there."""
    import deepspeed
    import torch.distributed as dist
    from deepspeed.runtime.config import DeepSpeedConfig
    from torch.testing._internal.distributed.fake_pg import FakeStore

    patch = pytest.MonkeyPatch()
    patch.setitem(deepspeed.ops.__compatible_ops__, "deepspeed_shm_comm", False)  # or it would be compiled first

    def read(path: Path, count: int) -> Any:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
        try:
            deepspeed.init_distributed(dist_backend="fake", verbose=False)
            return DeepSpeedConfig(str(path))
        finally:
            dist.destroy_process_group()

    yield read
    deepspeed.comm.comm.cdb = None
    patch.undo()


@pytest.mark.parametrize("case", DEEPSPEED)
def test_deepspeed_reads_the_same_numbers(case: str, deepspeed_reads: Callable[[Path, int], Any]) -> None:
    backend, shape = CASES[case][0].model_dump(), shape_of(case)
    config = deepspeed_reads(GOLDEN / f"{case}.deepspeed.json", shape.world_size)
    assert config.world_size == shape.world_size
    assert config.train_batch_size == shape.global_batch_size == 2 * 4 * shape.world_size
    assert config.train_micro_batch_size_per_gpu == shape.micro_batch_size
    assert config.gradient_accumulation_steps == shape.gradient_accumulation_steps
    assert config.gradient_clipping == shape.max_grad_norm
    assert config.bfloat16_config.enabled == (shape.dtype == "bf16")
    assert config.float16_config.enabled == (shape.dtype == "fp16")
    assert not config.float16_config.enabled or config.float16_config.loss_scale == 0  # dynamic
    zero = config.zero_config
    assert zero.stage == backend["stage"]
    assert zero.reduce_bucket_size == backend["bucket_size"]
    assert zero.overlap_comm == backend["overlap_communication"]
    for found, key in ((zero.offload_optimizer, "optimizer"), (zero.offload_param, "parameters")):
        assert (found.device if found else "none") == backend["offload"][key]
        assert found is None or str(found.nvme_path or "") == (backend["offload"]["nvme_path"] or "")
