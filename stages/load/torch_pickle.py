"""What a pickled state dict holds, found without unpickling: its opcodes are read as data.

A pickle is a program. That of a state dict uses a few dozen instructions and a handful of names, all of which
mean something here; any other instruction or name is refused, and nothing is ever imported or called. The
opcodes: Python's pickletools. What torch means by them: torch/_utils.py and torch/serialization.py.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...artifacts.tensor_header import DTYPE_BITS, MAX_DIMENSIONS, HeaderFault, check_name, is_naturals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from io import BytesIO

MAX_PICKLE_BYTES = 16 << 20
MAX_OPCODES = 2_000_000
# torch's typed storages, and what safetensors calls their elements.
STORAGES: Mapping[str, str] = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A name that the pickle would import, such as `torch FloatStorage`."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}.{self.attribute}"


@dataclass(frozen=True)
class Storage:
    """Elements on the disk: their safetensors dtype, the key of their record, and how many there are."""

    dtype: str
    key: str
    count: int

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return self.count * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage: its first element, shape, and the elements from one index to the next."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    """The mark that some opcodes put on the stack, and others go back to."""


MARK = _Mark()


def read_state_dict(stream: BytesIO) -> dict[str, PickledTensor]:
    """The tensors that the pickle at the stream's position would make, by name; leaves it behind the pickle.

    Raises HeaderFault for a pickle that is not a mapping of names to tensors, or is in any way not as torch
    writes it.
    """
    value = read_value(stream)
    if not isinstance(value, dict):
        raise HeaderFault(f"it holds {describe(value)}, not a mapping of names to tensors")
    for name, tensor in value.items():
        if not isinstance(name, str):
            raise HeaderFault(f"it maps {describe(name)}, not a tensor's name")
        check_name(name)
        if not isinstance(tensor, PickledTensor):
            raise HeaderFault(f"it maps {name!r} to {describe(tensor)}, not to a tensor")
    return value


def read_value(stream: BytesIO) -> Any:
    """The plain value that the pickle at the stream's position stands for."""
    machine = _Machine()
    try:
        # Python warns of odd escapes in the text of a pickle, as if somebody had written them in a program.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count == MAX_OPCODES:
                    raise HeaderFault(f"its pickle has more than {MAX_OPCODES:,} instructions")
                machine.step(opcode.name, argument)
    except (ValueError, IndexError, TypeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise HeaderFault(f"its pickle is damaged: {str(error)[:200]}") from None
    return machine.result()


def describe(value: object) -> str:
    """What a value is, in words that quote nothing of it but a name."""
    if isinstance(value, Name | PickledTensor):
        return str(value) if isinstance(value, Name) else "a tensor"
    return f"a {type(value).__name__}"


class _Machine:
    """The pickle machine, for the instructions that torch writes (protocol 2)."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        """What is left when the pickle has stopped."""
        if len(self._stack) != 1:
            raise HeaderFault("its pickle is damaged: it leaves more or less than one value")
        return self._stack[0]

    def step(self, opcode: str, argument: Any) -> None:
        """Does one instruction."""
        if opcode in CONSTANTS:
            self._stack.append(CONSTANTS[opcode]())
        elif opcode in LITERALS:
            self._stack.append(argument)
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif opcode in STEPS:
            STEPS[opcode](self, argument)
        elif opcode not in ("PROTO", "STOP"):
            raise HeaderFault(f"its pickle has the instruction {opcode}, which no saved weights need")

    def tuple_of(self, count: int) -> None:
        """Makes a tuple of the last ``count`` values."""
        items = tuple(self.pop() for _ in range(count))
        self._stack.append(items[::-1])

    def tuple_from_mark(self, _: object) -> None:
        """Makes a tuple of the values above the mark."""
        self._stack.append(tuple(self.above_mark()))

    def set_items(self, items: Sequence[Any]) -> None:
        """Puts keys and values, one after another, into the mapping below them."""
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise HeaderFault("its pickle is damaged: it fills what is no mapping")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int) or key in target:
                raise HeaderFault(f"it says {describe(key)} twice, or maps what is no name")
            target[key] = value

    def append(self, items: Sequence[Any]) -> None:
        """Puts values into the list below them."""
        target = self._stack[-1]
        if not isinstance(target, list):
            raise HeaderFault("its pickle is damaged: it fills what is no list")
        target.extend(items)

    def name(self, argument: str) -> None:
        """Takes a name that a pickle may use; it stays a name."""
        name = Name(*argument.split(" ", 1))
        storage = name.module == "torch" and name.attribute in STORAGES
        if not storage and name not in CALLS:
            raise HeaderFault(f"its pickle names {str(name)[:80]!r}, which no saved weights need")
        self._stack.append(name)

    def storage(self, _: object) -> None:
        """Takes a reference to a storage: "storage", type, key, device, elements; then None in old files."""
        match self.pop():
            case ("storage", Name("torch", kind), str(key), str(), int(count), *views) if (
                kind in STORAGES and 0 <= count < 1 << 62 and views in ([], [None])
            ):
                self._stack.append(Storage(STORAGES[kind], key, count))
            case _:
                raise HeaderFault("its pickle refers to a storage in a way that torch does not")

    def call(self, _: object) -> None:
        """Does what the call of a known name means."""
        arguments = self.pop()
        name = self.pop()
        if not isinstance(name, Name) or name not in CALLS or not isinstance(arguments, tuple):
            raise HeaderFault(f"its pickle calls {describe(name)}")
        self._stack.append(CALLS[name](arguments))

    def build(self, _: object) -> None:
        """Drops the attributes of a mapping, where torch notes the versions of modules."""
        self.pop()
        if not isinstance(self._stack[-1], dict):
            raise HeaderFault(f"its pickle sets attributes of {describe(self._stack[-1])}")

    def pop(self) -> Any:
        """The last value, taken off; raises IndexError where there is none."""
        value = self._stack.pop()
        if value is MARK:
            raise IndexError("a value is missing")
        return value

    def pop_pair(self) -> tuple[Any, Any]:
        """The last two values, in the order in which they came."""
        last = self.pop()
        return self.pop(), last

    def above_mark(self) -> list[Any]:
        """The values above the last mark, taken off with it."""
        for position in range(len(self._stack) - 1, -1, -1):
            if self._stack[position] is MARK:
                items = self._stack[position + 1 :]
                del self._stack[position:]
                return items
        raise IndexError("a mark is missing")


def rebuilt(arguments: tuple[Any, ...]) -> PickledTensor:
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, ...)."""
    storage, offset, shape, stride = arguments[:4]
    plain = is_naturals([offset]) and is_naturals(list(shape)) and is_naturals(list(stride))
    if not isinstance(storage, Storage) or not plain or not len(shape) == len(stride) <= MAX_DIMENSIONS:
        raise HeaderFault("it holds a tensor without a proper storage, shape and stride")
    count = 1
    for size in shape:
        count *= size
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if count and (last >= storage.count or count > storage.count):
        raise HeaderFault(f"it holds a tensor of {count:,} elements over {storage.count:,} that are stored")
    return PickledTensor(storage, offset, tuple(shape), tuple(stride))


def parameter(arguments: tuple[Any, ...]) -> Any:
    """torch._utils._rebuild_parameter(data, requires_grad, hooks): the data."""
    return arguments[0]


def ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """collections.OrderedDict(), filled afterwards."""
    if arguments:
        raise HeaderFault("its pickle makes a mapping in a way that torch does not")
    return {}


# What a pickle may call, and what the call means.
CALLS: Mapping[Name, Callable[[tuple[Any, ...]], Any]] = {
    Name("torch._utils", "_rebuild_tensor_v2"): rebuilt,
    Name("torch._utils", "_rebuild_tensor"): rebuilt,
    Name("torch._utils", "_rebuild_parameter"): parameter,
    Name("collections", "OrderedDict"): ordered_dict,
}
CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "MARK": lambda: MARK, "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict,
}  # fmt: skip
LITERALS = frozenset({
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING",
})  # fmt: skip
STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": _Machine.name,
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "TUPLE": _Machine.tuple_from_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_pair()),
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.above_mark()),
}
