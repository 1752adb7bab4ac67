"""How processes are linked, by what NCCL writes about itself, and by the interface that gloo takes."""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

WORDS = {
    "P2P": "GPU to GPU (NVLink or PCIe)",
    "SHM": "through the memory of the host: slow, GPUs cannot reach each other",
    "NET/IB": "InfiniBand or RoCE",
    "NET/Socket": "TCP: slow between nodes that have InfiniBand",
    "NVLS": "NVLink with reduction in the switch",
    "COLLNET": "network with reduction in the switch",
}


@contextmanager
def nccl_log() -> Iterator[Path]:
    """A file that NCCL writes its choices into; it must be named before NCCL starts."""
    with tempfile.TemporaryDirectory(prefix="ftune-doctor-") as folder:
        log = Path(folder) / "nccl.txt"
        before = {name: os.environ.get(name) for name in ("NCCL_DEBUG", "NCCL_DEBUG_FILE", "NCCL_DEBUG_SUBSYS")}
        os.environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(log), "NCCL_DEBUG_SUBSYS": "INIT,NET"}
        try:
            yield log
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def links_in(log: str) -> set[str]:
    """The kinds of links in a log of NCCL: `Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM`, `... via NET/IB/0/GDRDMA`."""
    found = set()
    for path in re.findall(r" via (\S+)", log):
        kind = next((kind for kind in WORDS if path.startswith(kind)), path)
        found.add(f"{kind} with GPUDirect RDMA" if "GDRDMA" in path else kind)
    return found


def in_words(links: Iterable[str]) -> str:
    """Kinds of links with what they mean."""
    told = []
    for link in sorted(links):
        kind = link.partition(" with ")[0]
        told.append(f"{link} ({WORDS[kind]})" if kind in WORDS else link)
    return "; ".join(told)
