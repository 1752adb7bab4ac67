"""Two machines, as network namespaces with an address each and a cable between them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Node:
    """A namespace: what runs in it sees its own interfaces alone."""

    name: str
    address: str

    def command(self, *words: object) -> list[str]:
        """A command as it is run there."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """The two machines while inside; skips the test where they cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("two nodes are made with 'ip', of iproute2")
    number = os.getpid()
    nodes = Node(f"ftune{number}a", "10.99.0.1"), Node(f"ftune{number}b", "10.99.0.2")
    try:
        for node in nodes:
            made = _ip("netns", "add", node.name)
            if made.returncode:
                pytest.skip(f"two nodes need network namespaces: {made.stderr.strip()}")
        made = _ip(
            "link", "add", "cable", "netns", nodes[0].name, "type", "veth", "peer", "cable", "netns", nodes[1].name
        )
        if made.returncode:
            pytest.skip(f"two nodes need virtual cables: {made.stderr.strip()}")
        for node in nodes:
            _ip("-n", node.name, "address", "add", f"{node.address}/24", "dev", "cable", check=True)
            _ip("-n", node.name, "link", "set", "cable", "up", check=True)
            _ip("-n", node.name, "link", "set", "lo", "up", check=True)
        yield nodes
    finally:
        for node in nodes:
            _ip("netns", "delete", node.name)


def _ip(*words: str, check: bool = False) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)
