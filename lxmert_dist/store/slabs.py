"""Buffers for feature objects: made once, filled again and again, and bounded in number.

Fresh buffers of several MiB cost more to fault in than to fill. A buffer here goes back by itself,
when nobody looks at it any more, so nobody has to know who else does.
"""

import itertools
import math
import threading
import weakref
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8

Bytes = UInt8[np.ndarray, " N"]


class SlabPool:
    """Buffers of one size. Safe to use from threads.

    Whoever wants one draws a ticket; tickets are served in their order, so that a read that is
    needed sooner is never starved by one that was planned after it.

    Attributes:
        slab_bytes: of each buffer.
        most: how many buffers there may be; None is as many as are in use at once.
        made: how many buffers were ever made.
    """

    def __init__(self, slab_bytes: int, most: int | None = None) -> None:
        """Make no buffer yet."""
        self.slab_bytes = slab_bytes
        self.most = most
        self.made = 0
        # Its put may interrupt anything in the same thread, as a garbage collection does.
        self._free: SimpleQueue[Bytes | None] = SimpleQueue()
        self._tickets = itertools.count()
        self._served = 0
        self._closed = False
        self._turn = threading.Condition()

    def ticket(self) -> int:
        """A place in the line; each ticket must be given to :meth:`take`, by any thread."""
        return next(self._tickets)

    def take(self, ticket: int) -> Bytes:
        """A buffer of ``slab_bytes``, once all earlier tickets were served and one is free.

        It goes back to the pool when it and every view of it are gone. Its contents are arbitrary.

        Raises:
            CancelledError: the pool is closed.
        """
        with self._turn:
            self._turn.wait_for(lambda: self._closed or self._served == ticket)
            if self._closed:
                raise CancelledError
        try:  # one thread at a time
            slab = self._next()
        finally:
            with self._turn:
                self._served += 1
                self._turn.notify_all()
        # Views of an array refer to the one that owns the memory. With a memoryview between, they
        # refer to this array, which therefore dies with the last of them.
        lease = np.frombuffer(slab.data, np.uint8)
        weakref.finalize(lease, self._free.put, slab).atexit = False
        return lease

    def close(self) -> None:
        """Have everybody who waits, and who comes later, told that there is nothing more."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        self._free.put(None)

    def _next(self) -> Bytes:
        try:
            slab = self._free.get_nowait()
        except Empty:
            if self.most is None or self.made < self.most:
                self.made += 1
                return np.empty(self.slab_bytes, np.uint8)
            slab = self._free.get()
        if slab is None:
            raise CancelledError
        return slab


class ArrayPool:
    """Arrays for batches, whose shapes change little, in buffers of a :class:`SlabPool`.

    Safe to use from threads.
    """

    def __init__(self) -> None:
        """Make no buffer yet."""
        self._slabs = SlabPool(0)

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Like ``np.empty``; the memory goes back when no array or tensor looks at it any more."""
        item = np.dtype(dtype)
        num_bytes = math.prod(shape) * item.itemsize
        slabs = self._slabs
        if num_bytes > slabs.slab_bytes:
            slabs = self._slabs = SlabPool(num_bytes)
        lease = slabs.take(slabs.ticket())
        return lease[:num_bytes].view(item).reshape(shape)
