"""Ranks that tell each other that they live, beside the collectives and their library.

Rank 0 has the hub; each other rank keeps a line to it. Over a line go beats, once a second, each
with what the rank does; the reason for which a rank left early; and the hub's verdict, which is
the end of the run. The kernel closes the line of a process that dies, so that is known at once; a
stopped process, or a host that is cut off, is known by its silence.
"""

import hmac
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

BEAT_SECONDS = 1.0
SETTLE_SECONDS = 1.5
"""Between the first sign that ranks are missing and the verdict, which names all of them."""
DRAIN_BEATS = 5
"""How long the hub still listens after the end, so that the others can read the verdict."""
_WELL = {"well": True}
_LONGEST_LINE = 1 << 16


@dataclass
class Peer:
    """What a rank last said of itself."""

    rank: int
    host: str = "?"
    doing: str = "starting"
    marks: int = 0
    """How often it got further."""
    heard: float = 0.0
    """When it last spoke, by the clock of who listens."""
    gone: bool = False
    """Its end of the line was closed, and it had not left."""
    left: bool = False

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"rank {self.rank} on {self.host}"

    @property
    def where(self) -> str:
        """What it was last known to do."""
        return f"while {self.doing}"

    @property
    def ended(self) -> str:
        """What is said of it when its line was closed."""
        return f"{self.name} is gone: its process ended {self.where}"

    def silent(self, seconds: float) -> str:
        """What is said of it when it says nothing for so long."""
        return f"{self.name} has not answered for {seconds:g} s, {self.where}"

    def said(self, message: Mapping[str, Any], clock: float) -> None:
        """Take in what it told."""
        self.heard = clock
        self.host = str(message.get("host", self.host))
        self.doing = str(message.get("doing", self.doing))
        self.marks = int(message.get("marks", self.marks))
        self.left = bool(message.get("left", self.left))

    def beat(self) -> dict[str, Any]:
        """What it tells of itself."""
        names = ("host", "doing", "marks", "left")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Verdict:
    """Why the run cannot go on."""

    text: str
    final: bool = False
    """Whether starting again would not help: a rank ended by an error that a user has to mend."""

    def message(self) -> dict[str, Any]:
        """As it goes over a line."""
        return {"verdict": self.text, "final": self.final}


@dataclass(frozen=True)
class Limits:
    """Seconds."""

    silence: float
    """A rank that says nothing for longer is missing."""
    standing: float
    """Where no rank gets further for longer, the run stands still."""


class Clock:
    """Seconds in which this process ran: those in which it was stopped are nobody's silence."""

    def __init__(self) -> None:
        self.now = 0.0
        self._before = time.monotonic()

    def tick(self) -> float:
        """Look at the time; at least once a beat, or else one of the beats does not count."""
        real = time.monotonic()
        self.now += min(real - self._before, 2 * BEAT_SECONDS)
        self._before = real
        return self.now


class Wire:
    """Lines of JSON over a connection; any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(BEAT_SECONDS)
        self.connection = connection
        self._rest = b""
        self._sending = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send, unless the other end is gone, which :meth:`receive` will tell."""
        with self._sending, suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """What came within a beat; None: nothing will come any more."""
        try:
            came = self.connection.recv(_LONGEST_LINE)
        except TimeoutError:
            return []
        except OSError:
            return None
        *lines, self._rest = (self._rest + came).split(b"\n")
        if not came or len(self._rest) > _LONGEST_LINE:
            return None
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return messages if all(isinstance(m, dict) for m in messages) else None

    def end(self) -> None:
        """Say that no more will be sent."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)


@dataclass
class Hub:
    """Rank 0's part: hears all ranks, and judges."""

    listener: socket.socket
    token: str
    """What a line must begin with: others may reach the port, too."""
    own: Peer
    others: Mapping[int, Peer]
    limits: Limits
    condemn: Callable[[Verdict], None]
    """Called with the verdict, if there is one."""

    def __post_init__(self) -> None:
        self.complete = threading.Event()
        """Whether all the others have called."""
        self._lines: dict[int, Wire] = {}
        self._clock = Clock()
        self._lock = threading.Lock()
        self._ended = False
        self._failure: Verdict | None = None
        self._progress: list[int] = []
        self._moved = 0.0
        self._suspected: float | None = None

    def run(self) -> None:
        """Hear and judge until the end, and then until the others hung up."""
        beaten, drained = 0.0, 0
        self.listener.setblocking(False)
        with selectors.DefaultSelector() as selector, self.listener:
            selector.register(self.listener, selectors.EVENT_READ)
            while not self._ended or (self._lines and drained < DRAIN_BEATS):
                for key, _ in selector.select(BEAT_SECONDS):
                    self._hear(selector, key)
                now = self._clock.tick()
                if now - beaten >= BEAT_SECONDS:
                    beaten = now
                    drained += self._ended
                    self._tell(self.own.beat())
                verdict = None if self._ended else self._judge(now)
                if verdict and self.end(verdict):
                    self.condemn(verdict)
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]

    @property
    def suspects(self) -> bool:
        """Whether somebody seems to be missing, and there is no verdict yet."""
        return self._suspected is not None and not self._ended

    def end(self, verdict: Verdict | None) -> bool:
        """Tell the others of a verdict, or that all is well; whether nobody did before."""
        with self._lock:
            if self._ended:
                return False
            self._ended = True
        self._tell(_WELL if verdict is None else verdict.message())
        return True

    def _tell(self, message: Mapping[str, Any]) -> None:
        for wire in list(self._lines.values()):
            wire.send(message)

    def _hear(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        if key.data is None:
            with suppress(OSError):
                wire = Wire(self.listener.accept()[0])
                selector.register(wire.connection, selectors.EVENT_READ, _Caller(wire))
            return
        caller: _Caller = key.data
        messages = caller.wire.receive()
        for message in messages or []:
            if caller.peer is None:
                caller.peer = self._newcomer(message)
                if caller.peer is None:
                    messages = None
                    break
                self._lines[caller.peer.rank] = caller.wire
                if len(self._lines) == len(self.others):
                    self.complete.set()
            caller.peer.said(message, self._clock.now)
            if "verdict" in message:  # on itself
                self._failure = Verdict(message["verdict"], message["final"])
        if messages is None:
            selector.unregister(caller.wire.connection)
            caller.wire.connection.close()
            if caller.peer is not None:
                del self._lines[caller.peer.rank]
                caller.peer.gone = not caller.peer.left

    def _newcomer(self, message: Mapping[str, Any]) -> Peer | None:
        """Whose line begins with this; None for a stranger's."""
        if not hmac.compare_digest(str(message.get("token")).encode(), self.token.encode()):
            return None
        return self.others.get(message["rank"])

    def _judge(self, now: float) -> Verdict | None:
        if self._failure is not None:
            return self._failure
        here = [peer for peer in self.others.values() if not peer.left]
        silence = self.limits.silence
        gone = [p.ended for p in here if p.gone]
        gone += [p.silent(silence) for p in here if not p.gone and now - p.heard > silence]
        if gone:
            self._suspected = self._suspected or now
            settled = now - self._suspected >= SETTLE_SECONDS
            return Verdict("; ".join(gone)) if settled else None
        self._suspected = None
        return self._standing(now, [self.own, *here])

    def _standing(self, now: float, here: list[Peer]) -> Verdict | None:
        progress = [peer.marks for peer in here]
        if progress != self._progress:
            self._progress, self._moved = progress, now
        if now - self._moved <= self.limits.standing:
            return None
        least = min(progress)
        behind = [f"{p.name} {p.where}" for p in here if p.marks == least < max(progress)]
        which = ", ".join(behind)
        return Verdict(
            f"no rank got further for cluster.timeout_seconds={self.limits.standing:g}; "
            + (f"the others wait for {which}" if which else f"all stand {self.own.where}")
        )


@dataclass
class _Caller:
    """Who is at the other end of a line of the hub; a stranger until it told the token."""

    wire: Wire
    peer: Peer | None = None


@dataclass
class Line:
    """The part of every other rank: its line to the hub, over which it also judges rank 0."""

    wire: Wire
    token: str
    own: Peer
    hub: Peer
    limits: Limits
    condemn: Callable[[Verdict], None]
    """Called with the verdict, if there is one."""
    suspects = False
    """Rank 0 is gone at once, or silent for long enough."""
    leaving: bool = False
    """Whether this rank says that it ends: from there on it condemns nobody, and is not told of the
    verdict on itself."""

    def __post_init__(self) -> None:
        self.wire.send({"token": self.token, "rank": self.own.rank, **self.own.beat()})

    def run(self) -> None:
        """Beat and listen until the end."""
        clock, beaten = Clock(), 0.0
        with self.wire.connection:
            while not self.own.left:
                messages = self.wire.receive()
                now = clock.tick()
                if self.leaving:
                    continue  # the last word is on its way
                for message in messages or []:
                    if message == _WELL:
                        return
                    if "verdict" in message:
                        self.condemn(Verdict(message["verdict"], message["final"]))
                        return
                    self.hub.said(message, now)
                verdict = self._judge(now, lost=messages is None)
                if verdict and not self.leaving:
                    self.condemn(verdict)
                    return
                if now - beaten >= BEAT_SECONDS:
                    beaten = now
                    self.wire.send(self.own.beat())

    def end(self, verdict: Verdict | None) -> None:
        """Hang up; with the verdict on this rank itself, if it ends by an error."""
        self.leaving = True
        last = {"left": True, **(verdict.message() if verdict else {})}
        self.wire.send({**self.own.beat(), **last})
        self.own.left = True  # then the watching thread closes the line

    def _judge(self, now: float, *, lost: bool) -> Verdict | None:
        silence = self.limits.silence
        if lost:
            return Verdict(self.hub.ended)
        return Verdict(self.hub.silent(silence)) if now - self.hub.heard > silence else None
