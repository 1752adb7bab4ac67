"""Fully sharded data parallelism (FSDP2): each process holds a part of each parameter, gradient and moment."""

from typing import Any, Literal, Self

from pydantic import model_validator

from ftune.backends.asked import Asked
from ftune.backends.base import Sharding, differs
from ftune.backends.distributed import Distributed, common_config
from ftune.backends.limits import of_optimizers, of_quantization
from ftune.backends.shape import Shape


class Fsdp(Distributed):
    """A part of each parameter on each device, decoder layer by decoder layer (PyTorch FSDP2)."""

    type: Literal["fsdp"] = "fsdp"
    """A part of each parameter on each device, decoder layer by decoder layer (PyTorch FSDP2)."""

    sharding: Literal["full", "hybrid"] = "full"
    """`full`: over all processes; `hybrid`: over those of a node, with a copy on each node, so that only gradients go
    between nodes."""

    reshard_after_forward: bool = True
    """Free a layer's gathered weights after the forward pass and gather them again for the backward pass; `false` keeps
    them until then: faster, more memory (as ZeRO-2)."""

    offload: Literal["none", "cpu"] = "none"
    """`cpu`: parameters, gradients and moments lie in the memory of the CPU, and the optimiser steps there; slower."""

    @model_validator(mode="after")
    def _nodes_for_copies(self) -> Self:
        if self.sharding == "hybrid" and self.num_nodes == 1:
            raise ValueError("sharding: 'hybrid' keeps a copy on each node, and num_nodes is 1; use 'full'")
        return self

    def accelerate_config(self, shape: Shape) -> dict[str, Any]:
        """FSDP2, wrapped by decoder layer; a process of ftune does the sharding itself, with the same settings."""
        config = common_config(shape, "FSDP") | {
            "mixed_precision": shape.mixed_precision,
            "fsdp_config": {
                "fsdp_version": 2,
                "fsdp_reshard_after_forward": self.reshard_after_forward,
                "fsdp_offload_params": self.offload == "cpu",
                "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_state_dict_type": "SHARDED_STATE_DICT",
                "fsdp_activation_checkpointing": shape.activation_checkpointing,
                "fsdp_cpu_ram_efficient_loading": False,
            },
        }
        if self.sharding == "hybrid":
            config["parallelism_config"] = {
                "parallelism_config_dp_replicate_size": shape.nodes,
                "parallelism_config_dp_shard_size": shape.processes,
            }
        return config

    def shards(self) -> tuple[Sharding, ...]:
        """Everything, by FSDP2."""
        return ("fsdp",)

    def limits(self) -> dict[str, str]:
        """Optimisers that need whole parameters, and quantised weights."""
        return of_optimizers("a part of each") | of_quantization("FSDP2")

    def _differing(self, asked: Asked, shape: Shape) -> list[str]:
        found = [
            differs(f"fsdp_{name}", theirs, f"backend.{name}", getattr(self, name))
            for name, theirs in asked.fsdp.items()
            if theirs != getattr(self, name)
        ]
        if asked.kind and asked.fsdp_version != 2:
            found.append(
                f"the launcher's fsdp_version is {asked.fsdp_version}; ftune shards with FSDP2; set fsdp_version to 2"
            )
        if asked.activation_checkpointing and not shape.activation_checkpointing:
            found.append(differs("fsdp_activation_checkpointing", True, "batch.activation_checkpointing", False))
        return found
