"""The processes of `ftune doctor --network` come together, or learn in time who is missing."""

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from ftune.core.errors import LaunchError
from ftune.core.world import World
from ftune.launch.doctor.ports import call

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # `torch.distributed` has it too, but without types

LOOK_S = 0.1
RANKS_NAMED = 16


def meet(world: World, wait_s: float) -> "Store":
    """The store of all processes, once all are there.

    Raises LaunchError after `wait_s` seconds: on the first process it names those that did not come, on the others the
    address at which nobody answered, or what the first process found.
    """
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    where = f"{host or '(MASTER_ADDR is not set)'}:{port or '(MASTER_PORT is not set)'}"
    if not host or not port.isdecimal():
        raise LaunchError(f"rank {world.rank} of {world.count}: no address to meet at: {where}")
    # torchrun's agent has opened a store at this address already, and says so
    opens = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    begun, limit = time.monotonic(), timedelta(seconds=wait_s)
    if not opens:
        _knock(world, host, int(port), wait_s)
    try:
        opened = TCPStore(host, int(port), world.count, is_master=opens, timeout=limit, wait_for_workers=False)
        store = PrefixStore("doctor", opened)
        store.set(f"here/{world.rank}", "")
        if world.rank == 0:
            store.set("verdict", _verdict(store, world, begun + wait_s, where))
        else:  # the first process may have begun to wait later than this one
            store.wait(["verdict"], 2 * limit)
        verdict = store.get("verdict").decode()
    except (RuntimeError, OSError) as failed:
        cause = (str(failed).splitlines() or [type(failed).__name__])[0]
        raise LaunchError(
            f"rank {world.rank} of {world.count}: meeting at {where} failed: {cause}; "
            "is the port free on the first node, and does the first process still run?"
        ) from None
    if verdict:
        raise LaunchError(verdict if world.rank == 0 else f"rank {world.rank}: {verdict}")
    return store


def _knock(world: World, host: str, port: int, wait_s: float) -> None:
    """Wait until the first process listens. Raises LaunchError with the last reason why it could not be reached."""
    deadline = time.monotonic() + wait_s
    while reason := call(host, port):
        if time.monotonic() > deadline:
            raise LaunchError(
                f"rank {world.rank} of {world.count} tried {host}:{port} for {wait_s:g} s, and nobody answered "
                f"({reason}); does the first process run, is the address right, does a firewall stand between?"
            )
        time.sleep(LOOK_S)


def _verdict(store: "Store", world: World, deadline: float, where: str) -> str:
    """Wait for all, and give the words for those that did not come; nothing if all did."""
    missing = list(range(world.count))
    while True:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        if not missing:
            return ""
        if time.monotonic() > deadline:
            return told_missing(missing, world, where)
        time.sleep(LOOK_S)


def told_missing(missing: list[int], world: World, where: str) -> str:
    """The words for ranks that did not come, with the nodes on which all are missing."""
    named = ", ".join(map(str, missing[:RANKS_NAMED])) + (", ..." if len(missing) > RANKS_NAMED else "")
    each = world.local_count
    silent = [node for node in range(world.nodes) if set(range(node * each, (node + 1) * each)) <= set(missing)]
    nodes = f" (all of node {', '.join(map(str, silent))})" if silent and world.nodes > 1 else ""
    return (
        f"{len(missing)} of {world.count} processes did not come to {where}: rank {named}{nodes}; "
        "are they running, do they have the same address, does a firewall stand between?"
    )
