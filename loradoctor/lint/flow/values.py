"""Abstract values. All are immutable and compare by content; things that change live on the heap (``facts.py``)."""

from __future__ import annotations

from collections.abc import Iterable

from loradoctor.lint import ir
from loradoctor.lint.record import record

Oid = tuple[int, int] | str
"""The identity of a heap object: the node that made it and how many it had made before; or the key of an unknown value."""


@record
class Value:
    """Base of all abstract values."""


@record
class Unknown(Value):
    """A value nothing is known of but its identity: two unknowns with one key are the same value."""

    key: str


@record
class Known(Value):
    """A literal."""

    value: object


@record
class Ref(Value):
    """Something of a library, by its canonical dotted name (``peft.PeftModel.from_pretrained``), or a builtin."""

    name: str


@record
class Obj(Value):
    """An object on the heap."""

    oid: Oid


@record
class Items(Value):
    """A list, tuple or set whose items are known."""

    kind: str
    items: tuple[Value, ...]


@record
class Many(Value):
    """A container of any length: ``items`` are samples of what it holds."""

    items: tuple[Value, ...]


@record
class Table(Value):
    """A dict; ``complete`` when every key is known."""

    items: tuple[tuple[object, Value], ...]
    complete: bool = True

    def get(self, key: object) -> Value | None:
        """The value under ``key``, if known."""
        return next((v for k, v in reversed(self.items) if k == key and type(k) is type(key)), None)


@record
class Template(Value):
    """A string built of parts: two with equal parts are the same string."""

    parts: tuple[Value, ...]


@record
class Derived(Value):
    """Something taken out of another value: the ``parameters`` or ``state_dict`` of a model, a file's content, an attribute."""

    kind: str
    source: Value
    note: str = ""


@record
class Function(Value):
    """A function of this file with the scope it closes over; ``owner`` is the class it was defined in."""

    node: ir.Function | ir.Lambda
    scope: int
    owner: UserClass | None = None


@record
class Generator(Value):
    """A call of a generator function of this file: nothing of it runs before it is iterated."""

    function: Function
    receiver: Value | None
    arguments: tuple[tuple[str, Value], ...]


@record
class Partial(Value):
    """``functools.partial(function, …)``: the arguments that come before those of the call."""

    function: Value
    passed: tuple[tuple[ir.Arg, Value], ...]


@record
class UserClass(Value):
    """A class of this file; its attributes live in scope ``scope``."""

    node: ir.Class
    scope: int
    bases: tuple[Value, ...]


@record
class UserModule(Value):
    """A module of this project; its names live in scope ``scope``."""

    scope: int


@record
class Method(Value):
    """``receiver.name`` before it is called; ``function`` when it is defined in this file."""

    receiver: Value
    name: str
    function: Function | None = None


@record
class Super(Value):
    """``super()`` in a method of ``owner`` called on ``receiver``."""

    receiver: Value
    owner: UserClass


LARGEST = 10_000
"""How many parts or characters something put together may have: what is doubled again and again would fill the memory."""

NONE = Known(None)
NAMESPACE = Ref("builtins.globals()")
"""What `globals()` gives: the names of the module itself."""


def concat(parts: Iterable[Value]) -> Value:
    """The string made of these parts: known where all are, and equal for equal strings however they were put together."""
    flat: list[Value] = []
    for part in (inner for outer in parts for inner in (outer.parts if isinstance(outer, Template) else (outer,))):
        if isinstance(part, Known) and flat and isinstance(flat[-1], Known):
            flat[-1] = Known(f"{flat[-1].value}{part.value}")
        else:
            flat.append(part)
    if len(flat) + sum(len(part.value) for part in flat if isinstance(part, Known) and isinstance(part.value, str)) > LARGEST:
        return Unknown(f"text@{hash(tuple(flat)):x}")
    return flat[0] if len(flat) == 1 and isinstance(flat[0], Known) else Template(tuple(flat))


def text_in(value: Value | None) -> str:
    """Every literal piece of text in a string value, joined: enough to recognise a file name."""
    match value:
        case Known(value=str(text)):
            return text
        case Template(parts=parts):
            return "".join(text_in(p) for p in parts)
        case _:
            return ""
