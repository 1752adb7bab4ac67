"""The network interface over which another machine is reached."""

import socket
import struct
import sys

SIOCGIFADDR = 0x8915
"""From <linux/sockios.h>: the IPv4 address of an interface."""


def interface_to(host: str) -> str | None:
    """The name of the interface that leads to `host`, or that has its address; None where that cannot be told.

    gloo takes the interface of the machine's own name by itself, which on Debian is that of 127.0.1.1.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # nothing is sent: the kernel only looks for the way
            address = probe.getsockname()[0]
            return next((name for _, name in socket.if_nameindex() if _address(probe, name) == address), None)
    except OSError:  # a name that is not known, no way, or IPv6 alone
        return None


def _address(probe: socket.socket, interface: str) -> str | None:
    if sys.platform != "linux":
        return None
    import fcntl

    try:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
    except OSError:  # it has none
        return None
    return socket.inet_ntoa(answer[20:24])
