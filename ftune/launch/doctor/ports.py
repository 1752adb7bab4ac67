"""Whether processes can meet: ports, names, network interfaces."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from ftune.launch.doctor.finding import Finding, error, ok, warning

INTERFACE_NAMES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
ANSWER_S = 2.0


@dataclass(frozen=True)
class PortFacts:
    """What was tried, and how it ended; a text is why it failed, empty where it worked."""

    bound: str
    """Listening on a port and calling it through the loopback address."""
    host_resolved: str
    """Looking up this machine's own name."""
    interfaces: tuple[str, ...]
    wanted_interfaces: dict[str, str]
    """Those of INTERFACE_NAMES that are set."""
    address: str = ""
    """MASTER_ADDR; empty where it is not set."""
    address_resolved: str = ""


def gather() -> PortFacts:
    """Listen, call, and look names up."""
    address = os.environ.get("MASTER_ADDR", "")
    return PortFacts(
        bound=_listen_and_call(),
        host_resolved=_resolve(socket.gethostname()),
        interfaces=tuple(name for _, name in socket.if_nameindex()),
        wanted_interfaces={name: value for name in INTERFACE_NAMES if (value := os.environ.get(name))},
        address=address,
        address_resolved=_resolve(address) if address else "",
    )


def judge(facts: PortFacts) -> Iterator[Finding]:
    """What keeps processes from meeting; a firewall between nodes cannot be told from one of them."""
    if facts.bound:
        yield error(
            "ports",
            f"a process cannot call another on this machine: {facts.bound}",
            "bring up the loopback interface, or allow sockets in this container",
        )
    else:
        yield ok("ports", "processes of this machine can call each other; between nodes: ftune doctor --network there")
    if facts.host_resolved:
        yield warning(
            "ports",
            f"this machine cannot look up its own name ({facts.host_resolved}): gloo may choose a wrong address",
            "add the name to /etc/hosts, or set GLOO_SOCKET_IFNAME to the interface that leads to the other nodes",
        )
    if facts.address and facts.address_resolved:
        yield error(
            "ports",
            f"MASTER_ADDR={facts.address} cannot be looked up: {facts.address_resolved}",
            "give the name or address of the first node as the other nodes know it",
        )
    elif facts.address:
        yield ok("ports", f"MASTER_ADDR={facts.address} can be looked up")
    for name, value in facts.wanted_interfaces.items():
        if not matches(value, facts.interfaces):
            yield error(
                "ports",
                f"{name}={value}, but this machine has {', '.join(facts.interfaces)}",
                f"unset {name}, or name one of these",
            )


def matches(wanted: str, interfaces: tuple[str, ...]) -> bool:
    """NCCL's rule, which serves gloo's single name too: prefixes between commas, `=` for exact names, `^` for not."""
    text, negated = wanted.removeprefix("^"), wanted.startswith("^")
    exact = text.startswith("=")
    names = text.removeprefix("=").split(",")
    found = [real for real in interfaces if any(real == name if exact else real.startswith(name) for name in names)]
    return len(found) < len(interfaces) if negated else bool(found)


def call(address: str, port: int) -> str:
    """Why nothing answers there, as in `Connection refused`; empty where something does."""
    try:
        with socket.create_connection((address, port), timeout=ANSWER_S):
            return ""
    except (OSError, UnicodeError) as failed:
        return str(getattr(failed, "strerror", None) or failed)


def _listen_and_call() -> str:
    try:
        with socket.create_server(("", 0)) as server:
            return call("127.0.0.1", server.getsockname()[1])
    except OSError as failed:
        return failed.strerror or str(failed)


def _resolve(name: str) -> str:
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError) as failed:
        return str(getattr(failed, "strerror", None) or failed)
    return ""
