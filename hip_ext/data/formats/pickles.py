"""What a pickle says, without doing what it asks for: a reader that never calls, imports or instantiates anything.

The pickle machine is small: its operations put values on a stack. Here a class or function stays a `Name`, a call
stays a `Made` of that name and its arguments, and whoever reads takes from them what he knows. Names that are not
expected are refused where they stand.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from hip_ext.errors import DataError

LARGEST_STACK = 10_000
"""Values that may wait on the stack; records of molecules have fewer than a hundred."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    path: str


@dataclass
class Made:
    """What a pickle wants to be made by calling a name."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class External:
    """A reference to something outside of the pickle, by what identifies it."""

    identity: Any


class _Mark:
    pass


_MARK = _Mark()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}


def read_pickle(data: bytes | io.BytesIO, names: Collection[str]) -> Any:
    """The value of a pickle, made of plain values, `Made`, `Name` and `External`.

    Args:
        data: one pickle; a stream is left at its end.
        names: classes and functions that may be named, as "module.name".

    Raises:
        DataError: it names another one, uses an operation that tensors need not, or is damaged.
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    machine = _Machine(names)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        (value,) = machine.stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"damaged pickle: {str(error).splitlines()[0] if str(error) else error!r}") from None
    return value


class _Machine:
    def __init__(self, names: Collection[str]) -> None:
        self.names, self.stack, self.memo = names, [], {}  # type: ignore[var-annotated]

    def step(self, operation: str, argument: Any) -> None:
        stack = self.stack
        if len(stack) > LARGEST_STACK:
            raise DataError("the pickle nests deeper than any record of a molecule")
        if operation in _LITERALS:
            stack.append(argument)
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
        elif operation == "MARK":
            stack.append(_MARK)
        elif operation in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[operation]())
        elif operation in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(operation[-1])
            stack[-size:] = [tuple(self._top(size))]
        elif operation == "TUPLE":
            stack.append(tuple(self._marked()))
        elif operation in ("APPEND", "APPENDS"):
            items = self._marked() if operation == "APPENDS" else [stack.pop()]
            _expect(stack[-1], list).extend(items)
        elif operation in ("SETITEM", "SETITEMS"):
            items = self._marked() if operation == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _expect(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        elif operation in ("GLOBAL", "STACK_GLOBAL"):
            words = argument.split(" ") if operation == "GLOBAL" else [stack.pop(-2), stack.pop()]
            stack.append(self._name(".".join(words)))
        elif operation in ("REDUCE", "NEWOBJ"):
            arguments = _expect(stack.pop(), tuple)
            stack.append(Made(_expect(stack.pop(), Name).path, arguments))
        elif operation == "BUILD":
            state = stack.pop()
            _expect(stack[-1], Made).state = state
        elif operation == "BINPERSID":
            stack.append(External(stack.pop()))
        elif operation in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif operation in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif operation not in ("PROTO", "FRAME", "STOP"):
            raise DataError(f"refused a pickle with the operation {operation}, which no tensor needs")

    def _name(self, path: str) -> Name:
        if path not in self.names:
            raise DataError(
                f"refused a pickle that names {path[:80]}: only tensors and torch-geometric's Data are read"
            )
        return Name(path)

    def _top(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("the stack is too short")
        return self.stack[-count:]

    def _marked(self) -> list[Any]:
        """What was put on the stack since the last mark, taken off it together with the mark."""
        place = next((k for k in range(len(self.stack) - 1, -1, -1) if self.stack[k] is _MARK), -1)
        if place < 0:
            raise ValueError("there is no mark on the stack")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items


def _expect(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"expected {kind.__name__}, found {type(value).__name__}")  # noqa: TRY004 - damaged, not misused
    return value
