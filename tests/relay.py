"""A way from the hosts of a network to a server of the machine that they stand on."""

import ctypes
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from hosts import Host

CLONE_NEWNET = 0x40000000


@contextmanager
def relay(host: Host, port: int) -> Iterator[None]:
    """Until the block ends, ``port`` of a host is that of 127.0.0.1 outside."""
    with ThreadPoolExecutor(1) as apart:  # the thread that goes there does not come back
        listener = apart.submit(_listen, host, port).result()
    threading.Thread(target=_serve, args=(listener, port), daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _listen(host: Host, port: int) -> socket.socket:
    """A socket that stays in the network in which it is made."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{host.pid}/ns/net") as network:
        if libc.setns(network.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return socket.create_server((host.address, port))


def _serve(listener: socket.socket, port: int) -> None:
    with suppress(OSError):  # it was closed
        while True:
            inner, _ = listener.accept()
            threading.Thread(target=_connect, args=(inner, port), daemon=True).start()


def _connect(inner: socket.socket, port: int) -> None:
    with inner, suppress(OSError), socket.create_connection(("127.0.0.1", port)) as outer:
        back = threading.Thread(target=_carry, args=(outer, inner), daemon=True)
        back.start()
        _carry(inner, outer)
        back.join()


def _carry(source: socket.socket, target: socket.socket) -> None:
    """All bytes of one direction; the end of either side is the end of both."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
