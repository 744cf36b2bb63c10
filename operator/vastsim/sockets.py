"""Sockets that hold a port for a machine, so that nobody else takes it while it does not run."""

import socket

INSIDE = "127.0.0.1"
"""Where programs on machines listen for what is carried to them."""


def bound(
    host: str, ports: range | None, kind: socket.SocketKind = socket.SOCK_STREAM
) -> socket.socket:
    """Returns a socket that holds a port from now on; another one may listen on it, too."""
    for port in (0,) if ports is None else ports:
        held = socket.socket(type=kind)
        try:
            held.bind((host, port))
        except OSError:
            held.close()
            continue
        # Only now: before, it would share the port with whoever holds it in the same way.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return held
    raise RuntimeError("no port is free; give a wider range with --ssh-ports")


def port_of(held: socket.socket) -> int:
    """Returns the number of the port that a socket holds."""
    port: int = held.getsockname()[1]
    return port
