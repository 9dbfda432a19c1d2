"""Plain data classes for the hot path: what `dataclass` gives, at a fifth of its cost when the module is imported.

A linter is started for every commit, and building sixty data classes takes as long as parsing a training script. These have
no slots and trust the type checker, rather than the interpreter, that nobody assigns to a frozen one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True)
def record(cls: C) -> C:
    """A value: made from its fields in order, equal and hashed by content."""
    _make(cls)
    cls.__eq__ = _equal  # type: ignore[assignment]
    cls.__hash__ = _hash  # type: ignore[assignment]
    return cls


@dataclass_transform(eq_default=False)
def node(cls: C) -> C:
    """A thing: made from its fields in order, equal only to itself."""
    _make(cls)
    cls.__repr__ = _brief  # type: ignore[assignment]
    return cls


def replace(instance: T, **changes: Any) -> T:
    """A copy with some fields changed."""
    if dataclasses.is_dataclass(instance) and not isinstance(instance, type):
        return dataclasses.replace(instance, **changes)
    unknown = changes.keys() - instance.__dict__.keys()
    if unknown:
        raise TypeError(f"{type(instance).__name__} has no field {min(unknown)}")
    copy = object.__new__(type(instance))
    copy.__dict__ = {**instance.__dict__, **changes}
    return copy


def _make(cls: type) -> None:
    fields: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        own = base.__dict__
        fields |= {name: own.get(name, _MISSING) for name in own.get("__annotations__", ()) if name != "field_names"}
    head = ", ".join(name if default is _MISSING else f"{name}=_d['{name}']" for name, default in fields.items())
    body = "\n    ".join(f"self.{name} = {name}" for name in fields) or "pass"
    space: dict[str, Any] = {"_d": fields}
    exec(f"def __init__(self{', ' + head if head else ''}):\n    {body}", space)  # noqa: S102 -- field names of our own classes
    cls.__init__ = space["__init__"]  # type: ignore[misc]
    cls.__repr__ = _repr  # type: ignore[assignment, method-assign]
    cls.__match_args__ = cls.field_names = tuple(fields)  # type: ignore[attr-defined, misc]


_MISSING = object()


def _equal(self: Any, other: object) -> bool:
    return self is other or (self.__class__ is other.__class__ and self.__dict__ == other.__dict__)


def _hash(self: Any) -> int:
    return hash((self.__class__, *self.__dict__.values()))


def _brief(self: Any) -> str:
    # Conditions are named after what they are about: a class of this file must not be written out whole for that.
    return f"{type(self).__name__}#{self.uid}" if hasattr(self, "uid") else _repr(self)


def _repr(self: Any) -> str:
    if "uid" in self.__dict__:  # values hold functions and classes, whose bodies would be spelled out wherever a value is named
        return f"{type(self).__name__}#{self.uid}"
    shown = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items() if name != "ref")
    return f"{type(self).__name__}({shown})"
