"""A torch `.bin` read opcode by opcode: tensors are described, nothing is unpickled.

A stack machine over the few opcodes a state dict needs. Names that occur in state dicts (`OrderedDict`, torch's rebuild
functions, storages) are understood symbolically; every other global is an object we refuse to make, and reported.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any

from loradoctor.checkpoint.pickle_names import DTYPES, HARMLESS, REBUILDERS, STORAGES

_MAX_OPS = 50_000_000
_MAX_RANK = 64
"""Dimensions that torch's own iteration over tensors allows."""


class Refused(Exception):
    """The pickle is no state dict. ``globals`` are the names it wanted that we know nothing about."""

    def __init__(self, reason: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.names = names


@dataclass(frozen=True, slots=True)
class Global:
    """A name the pickle refers to; never resolved."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Storage:
    """A persistent id: ``key`` names the zip entry, ``dtype`` is safetensors' name, ``count`` the elements stored."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the pickle describes it; ``offset`` and ``strides`` in elements of ``storage``."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object we did not make: the result of calling ``what``."""

    what: str


@dataclass(slots=True)
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    strangers: dict[str, None] = field(default_factory=dict)


def walk(data: bytes) -> tuple[Any, tuple[str, ...]]:
    """The object ``data`` describes, with :class:`Tensor` leaves, and the foreign names it mentions.

    Raises :class:`Refused` when the stream is damaged or uses what no state dict uses.
    """
    machine = _Machine()
    try:
        for count, (op, arg, _) in enumerate(pickletools.genops(data)):
            if count > _MAX_OPS:
                raise Refused(f"it has more than {_MAX_OPS} opcodes")
            if op.name == "STOP":
                return machine.stack[-1], tuple(machine.strangers)
            _step(machine, op.name, arg)
    except Refused:
        raise
    except (IndexError, KeyError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise Refused(f"its opcodes make no sense ({type(error).__name__})", tuple(machine.strangers)) from error
    raise Refused("it ends before its last opcode", tuple(machine.strangers))


_PUSH = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
        "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES",
        "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _step(m: _Machine, op: str, arg: Any) -> None:  # noqa: C901 -- one opcode each, as in the pickle module itself
    stack = m.stack
    if op in _PUSH:
        stack.append(arg)
    elif op in _CONSTANTS:
        stack.append(_CONSTANTS[op])
    elif op in ("PUT", "BINPUT", "LONG_BINPUT"):
        m.memo[int(arg)] = stack[-1]
    elif op == "MEMOIZE":
        m.memo[len(m.memo)] = stack[-1]
    elif op in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(m.memo[int(arg)])
    elif op == "MARK":
        m.marks.append(stack)
        m.stack = []
    elif op in ("TUPLE", "LIST", "DICT", "FROZENSET"):
        items = _unmark(m)
        m.stack.append(tuple(items) if op == "TUPLE" else _dict(items) if op == "DICT" else items)
    elif op in _TUPLES:
        items = [stack.pop() for _ in range(_TUPLES[op])][::-1]
        stack.append(tuple(items))
    elif op in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
        stack.append({"EMPTY_TUPLE": (), "EMPTY_DICT": {}}.get(op, []))
    elif op in ("SETITEMS", "APPENDS", "ADDITEMS"):
        items = _unmark(m)
        _extend(m.stack[-1], items, pairs=op == "SETITEMS")
    elif op == "SETITEM":
        value, key = stack.pop(), stack.pop()
        _extend(stack[-1], [key, value], pairs=True)
    elif op == "APPEND":
        value = stack.pop()
        _extend(stack[-1], [value], pairs=False)
    elif op in ("GLOBAL", "STACK_GLOBAL", "INST"):
        _global(m, op, arg)
    elif op in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ"):
        _call(m, op)
    elif op == "BUILD":
        stack.pop()  # attributes of an OrderedDict or a Parameter: nothing of a tensor is in them
    elif op == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif op == "POP":
        stack.pop() if stack else _unmark(m)
    elif op == "POP_MARK":
        _unmark(m)
    elif op == "DUP":
        stack.append(stack[-1])
    elif op not in ("PROTO", "FRAME"):
        raise Refused(f"it uses the opcode {op}", tuple(m.strangers))


def _unmark(m: _Machine) -> list[Any]:
    items = m.stack
    m.stack = m.marks.pop()
    return items


def _dict(items: list[Any]) -> dict[Any, Any]:
    return {_hashable(k): v for k, v in zip(items[::2], items[1::2], strict=True)}


def _hashable(key: Any) -> Any:
    return key if isinstance(key, (str, int, float, bytes, type(None))) else Opaque(repr(type(key)))


def _extend(target: Any, items: list[Any], *, pairs: bool) -> None:
    if isinstance(target, dict) and pairs:
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key if isinstance(key, (str, int, float, bytes, type(None))) else f"<{type(key).__name__}>"] = value
    elif isinstance(target, list):
        target.extend(items)


def _global(m: _Machine, op: str, arg: Any) -> None:
    if op == "STACK_GLOBAL":
        name, module = m.stack.pop(), m.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):  # the text of tuples in tuples can be longer than any memory
            raise Refused("it names something by what is no text", tuple(m.strangers))
    else:
        module, _, name = str(arg).partition(" ")
    found = Global(str(module), str(name))
    if not _known(found):
        m.strangers[str(found)] = None
    if op == "INST":
        _unmark(m)
        m.stack.append(Opaque(str(found)))
    else:
        m.stack.append(found)


def _known(name: Global) -> bool:
    if (name.module, name.name) in HARMLESS:
        return True
    if name.module in ("torch", "torch.storage"):
        return name.name in STORAGES or name.name in DTYPES or name.name in ("_UntypedStorage", "Tensor")
    return (name.module in ("torch._utils", "torch._tensor") and name.name in REBUILDERS) or (
        name.module in ("torch.nn.parameter", "torch.nn") and name.name == "Parameter"
    )


def _call(m: _Machine, op: str) -> None:
    if op == "OBJ":
        items = _unmark(m)
        function, args = items[0], tuple(items[1:])
    else:
        if op == "NEWOBJ_EX":
            m.stack.pop()
        args, function = m.stack.pop(), m.stack.pop()
    m.stack.append(_result(function, args))


def _result(function: Any, args: Any) -> Any:
    if not isinstance(function, Global):
        return Opaque(f"<{type(function).__name__}>")
    if not isinstance(args, tuple) or not _known(function):
        return Opaque(str(function))
    name = function.name
    if name == "OrderedDict":
        return {_hashable(k): v for k, v in args[0]} if args and isinstance(args[0], list) else {}
    if name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        return _tensor(args, name)
    if name in ("_rebuild_parameter", "Parameter"):
        return args[0]
    if name == "_rebuild_from_type_v2":
        return _result(args[0], args[2])
    return args if name == "Size" else Opaque(str(function))


def _tensor(args: tuple[Any, ...], name: str) -> Tensor:
    storage, offset, shape, strides = args[:4]
    if isinstance(storage, Opaque) and storage.what == "torch.storage._load_from_bytes":
        raise Refused("its tensors were written by `pickle.dump`, not by `torch.save`", ("torch.storage._load_from_bytes",))
    if not isinstance(storage, Storage):
        raise Refused("a tensor has no storage")
    dtype = DTYPES[args[6].name] if name == "_rebuild_tensor_v3" else storage.dtype
    if not (isinstance(shape, (tuple, list)) and isinstance(strides, (tuple, list)) and len(shape) <= _MAX_RANK):
        raise Refused("a tensor has an impossible shape")
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
        raise Refused("a tensor has an impossible shape")
    return Tensor(storage, offset, tuple(shape), tuple(strides), dtype)


def _storage(pid: Any) -> Storage | Global:
    # torch.serialization.persistent_id: ("storage", storage type, key, location, number of elements); the older stream also has
    # ("module", class, file, source) for a whole module, which stands for the class.
    if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], Global):
        return pid[1]
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], Global):
        raise Refused("it refers to something that is no tensor storage")
    dtype = STORAGES.get(pid[1].name)
    if dtype is None:
        raise Refused(f"a storage has the type `{pid[1]}`", (str(pid[1]),))
    if not isinstance(pid[2], (str, int)) or type(pid[4]) is not int:
        raise Refused("a storage has no key or no length")
    return Storage(str(pid[2]), dtype, pid[4])
