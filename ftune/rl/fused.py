"""Elementwise functions as single GPU kernels."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch

from ftune.core.kernels import keep_kernels

P = ParamSpec("P")
R = TypeVar("R")


def fused(function: Callable[P, R], device: str) -> Callable[P, R]:
    """`function`, compiled where `device` (a type, as "cuda") is a GPU: few passes over memory, not one an operation.

    A GPU machine on which nothing compiles, for want of a C compiler or its headers, gets `function` and a warning.
    `TORCHDYNAMO_DISABLE=1` turns compiling off.
    """
    return _compiled(function) if device == "cuda" and _compiles(device) else function


@cache
def _compiled(function: Callable[P, R]) -> Callable[P, R]:
    return torch.compile(function)


@cache
def _compiles(device: str) -> bool:
    keep_kernels()
    try:
        example = torch.ones(8, device=device)  # first: without a GPU the compiler is not even imported
        torch.compile(torch.exp)(example)
    except Exception as error:  # whatever the toolchain raises
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"kernels are not compiled, which costs speed and memory: {reason}", stacklevel=2)
        return False
    return True
