"""NumPy arrays out of a pickle, without unpickling.

A pickle is a program for a small stack machine. Here its instructions are only read
(``pickletools.genops`` runs nothing), and those few that arrays, numbers, strings, tuples, lists
and dictionaries need are carried out on inert values. Whatever would import or call anything else
ends the reading, before it is carried out.
"""

import pickletools
from collections.abc import Callable
from mmap import mmap
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class HoldsCodeError(ValueError):
    """The pickle names something that is not a part of an array; ``name`` says what."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Symbol(str):
    """What a pickle would import; here only its name, ``module.attribute``."""


class _Blank:
    """An array or a type that is made in two steps: named first, filled by BUILD."""

    def __init__(self, code: str = "") -> None:
        self.code = code  # of a type; "" is an array
        self.array: Array | None = None


_NUMPY = ("numpy.core", "numpy._core")  # before and since NumPy 2
_RECONSTRUCT = {f"{module}.multiarray._reconstruct" for module in _NUMPY}
_FROM_BUFFER = {f"{module}.numeric._frombuffer" for module in _NUMPY}
_DICTIONARY, _NO_BYTES = "collections.OrderedDict", "__builtin__.bytes"
_ALLOWED = {
    "numpy.ndarray", "numpy.dtype", "_codecs.encode", _DICTIONARY, _NO_BYTES,
    *_RECONSTRUCT, *_FROM_BUFFER,
}  # fmt: skip

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT",
    "BINSTRING", "SHORT_BINSTRING", "STRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_MARK = object()


def read_arrays(source: bytes | mmap) -> dict[str, Any]:
    """The dictionary that a pickle holds: arrays by name, or a dictionary of these under a name.

    Args:
        source: the whole pickle. A mapped file is not copied, and a length that it claims and does
            not have reserves no memory.

    Returns:
        Arrays are copies, writable, in the machine's byte order; other values as they are.

    Raises:
        HoldsCodeError: the pickle needs something other than arrays and plain values.
        ValueError: it is damaged or truncated, or holds no dictionary.
    """
    machine = _Machine()
    try:
        # A mapped file reads like any other, though it is not typed as one.
        for opcode, argument, _ in pickletools.genops(cast(bytes, source)):
            machine.step(opcode.name, argument)
        (found,) = machine.stack
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its instructions make no sense: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, no arrays by name")
    outer = _filled(found)
    return {k: _filled(v) if isinstance(v, dict) else v for k, v in outer.items()}


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name not in _IGNORED and not self._collect(name):
            self._make(name, argument)

    def _collect(self, name: str) -> bool:
        """Carry out an instruction about containers; False if it is none."""
        stack = self.stack
        if name == "MARK":
            stack.append(_MARK)
        elif name in _SHORT_TUPLES:
            items = [stack.pop() for _ in range(_SHORT_TUPLES[name])]
            stack.append(tuple(reversed(items)))
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            items = self._since_mark()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "APPENDS":
            items = self._since_mark()
            stack[-1].extend(items)
        else:
            return False
        return True

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:  # an IndexError where there is none
            at -= 1
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _make(self, name: str, argument: Any) -> None:
        """Carry out an instruction about something imported, if it is a part of an array."""
        stack = self.stack
        if name == "GLOBAL":
            stack.append(_symbol(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_symbol(f"{module}.{attribute}"))
        elif name == "REDUCE":
            arguments, what = stack.pop(), stack.pop()
            stack.append(_call(what, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _fill(stack[-1], state)
        else:
            raise HoldsCodeError(f"instruction {name}")


def _symbol(name: str) -> _Symbol:
    if name not in _ALLOWED:
        raise HoldsCodeError(name)
    return _Symbol(name)


def _call(what: Any, arguments: Any) -> Any:
    """What one of the few known functions would return."""
    if not isinstance(what, _Symbol):
        raise HoldsCodeError(f"a call of {what!r:.40}")
    if what in _RECONSTRUCT:
        return _Blank()
    if what in _FROM_BUFFER:
        data, kind, shape, order = arguments
        return _array(data, kind, shape, order)
    if what == "numpy.dtype":
        return _Blank(str(arguments[0]))
    if what == "_codecs.encode" and arguments[1:] == ("latin1",):
        return arguments[0].encode("latin1")
    if what == _DICTIONARY and arguments == ():
        return {}
    if what == _NO_BYTES and arguments == ():
        return b""
    raise HoldsCodeError(f"{what}{arguments!r:.40}")


def _fill(blank: Any, state: Any) -> None:
    if not isinstance(blank, _Blank):
        raise HoldsCodeError(f"a state for {type(blank).__name__}")
    if blank.code:
        _, byte_order, *_ = state
        blank.code = byte_order.replace("|", "=") + blank.code
    else:
        _, shape, kind, is_fortran, data = state
        # A pickle of Python 2 keeps bytes as a string.
        raw = data.encode("latin1") if isinstance(data, str) else data
        blank.array = _array(raw, kind, shape, "F" if is_fortran else "C")


def _array(data: Any, kind: Any, shape: tuple[int, ...], order: Any) -> Array:
    code = kind.code.lstrip("<>=")
    if code[:1] not in ("f", "i", "u", "b") or not code[1:].isdigit():
        raise ValueError(f"an array of {code!r}; only numbers are read")
    values = np.frombuffer(bytes(data), np.dtype(kind.code))
    values = values.reshape(shape, order="F" if order == "F" else "C")
    return values.astype(values.dtype.newbyteorder("="), order="C")


def _filled(found: dict[Any, Any]) -> dict[Any, Any]:
    return {key: v.array if isinstance(v, _Blank) else v for key, v in found.items()}
