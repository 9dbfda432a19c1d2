"""The terms in which the library tables speak: a call's parameters, and what it does to the values it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from loradoctor.lint import ir
from loradoctor.lint.flow import paths
from loradoctor.lint.flow.conditions import files_changed
from loradoctor.lint.flow.facts import Config, Directory, Facts, Instance, Model, Peft, Trainer
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.trace import Binding
from loradoctor.lint.flow.values import Derived, Known, Obj, Oid, Unknown, Value
from loradoctor.lint.record import record, replace

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

F = TypeVar("F", bound=Facts)

MISSING = object()
"""What :meth:`Context.known` gives for an argument that was not passed."""
UNDECIDED = object()
"""What :meth:`Context.known` gives for an argument whose value is not known."""


@record
class Spec:
    """One library call: parameter names in order, its effect (None: nothing but an unknown result), and whether rules see it."""

    params: tuple[str, ...] = ()
    effect: Callable[[Context], Value | None] | None = None
    recorded: bool = True


@record
class Context:
    """A library call being made on one path."""

    machine: Machine
    node: ir.Call
    name: str
    receiver: Value | None
    binding: Binding
    state: State
    into: Value | None = None

    def run(self, spec: Spec) -> Value | None:
        """Apply another spec's effect to this call."""
        return spec.effect(self) if spec.effect else None

    def arg(self, name: str) -> Value | None:
        """An argument, None when it was certainly not passed."""
        return self.binding.get(name)

    def known(self, name: str) -> object:
        """The literal value of an argument, :data:`MISSING` or :data:`UNDECIDED`."""
        value = self.arg(name)
        if value is None:
            return MISSING
        return value.value if isinstance(value, Known) else UNDECIDED

    def get(self, value: Value | None, kind: type[F]) -> F | None:
        """The facts of a value if they are of this kind."""
        return self.state.get(value, kind)

    def new(self, facts: Facts) -> Value:
        """A new object, or the one under construction given these facts."""
        oid = self.state.oid(self.into)
        if oid is not None and self.into is not None:
            self.state.heap[oid] = facts
            return self.into
        return self.state.new(self.node.uid, facts)

    def change(self, value: Value | Oid | None, **changes: object) -> None:
        """Replace some facts of an object."""
        self.state.change(value, **changes)

    def event(self, kind: str, value: Value | None) -> None:
        """Remember that something happened to an object."""
        oid = self.state.oid(value)
        if oid is not None:
            self.machine.trace.event(kind, oid, self.node)

    def model(self, value: Value | None) -> Value | None:
        """``value`` as a model: an unknown value that is used as one becomes an object with an identity."""
        return as_model(value, self.state)

    def base(self, value: Value | None) -> Value | None:
        """The innermost model under PEFT wrappers."""
        peft = self.get(value, Peft)
        while peft is not None:
            value = of(peft.base)
            peft = self.get(value, Peft)
        return value


def of(oid: Oid) -> Value:
    """The value that denotes a heap object."""
    return Unknown(oid) if isinstance(oid, str) else Obj(oid)


def as_model(value: Value | None, state: State) -> Value | None:
    """See :meth:`Context.model`."""
    facts = state.facts(value)
    if isinstance(facts, Instance):
        state.heap[state.oid(value)] = Model(facts.made, cls=facts.cls)  # type: ignore[index]
        return value
    if facts is None and isinstance(value, Unknown):
        state.heap[value.key] = Model()
        state.run.models.add(value.key)
        return value
    return value if isinstance(facts, (Model, Peft)) else None


def directory(path: Value | None) -> Oid | None:
    """The heap identity of a directory, for paths that can be compared."""
    known = paths.normal(path)
    return None if known is None else f"dir:{known}"


def saved(context: Context, path: Value | None, **what: ir.Node) -> None:
    """Remember that something was saved into a directory on this path."""
    if "save" in context.name:
        files_changed(context.state)
    oid = directory(path)
    if oid is not None:
        before = context.state.heap.get(oid)
        known = before if isinstance(before, Directory) else Directory(context.node)
        context.state.heap[oid] = replace(known, **what)


def carries_adapter(value: Value | None, state: State) -> bool:
    """Whether a model has trained or trainable adapter layers inside."""
    facts = state.facts(value)
    return isinstance(facts, Peft) or (isinstance(facts, Model) and facts.carries_adapter)


def attribute_of(receiver: Value, name: str, state: State) -> Value:
    """An attribute of a library object."""
    facts = state.facts(receiver)
    match facts:
        case Peft(base=base):
            if name == "base_model":
                return Derived("tuner", receiver)
            return of(base) if name == "model" else Unknown(f"{state.oid(receiver)}.{name}")
        case Trainer(model=model) if model is not None and name in ("model", "model_wrapped"):
            return model
        case Config() if facts.get(name) is not None:
            return facts.get(name) or Unknown(name)
        case None:
            pass
        case _:
            return Unknown(f"{state.oid(receiver)}.{name}")
    if isinstance(receiver, Derived):
        if receiver.kind == "tuner" and name == "model":
            peft = state.get(receiver.source, Peft)
            return of(peft.base) if peft else Unknown(f"{receiver}.model")
        if receiver.kind == "submodule" and name in ("weight", "bias"):
            return Derived("parameter", receiver.source, "partly")
        if receiver.kind == "parameter" and name == "data":
            return receiver
    return Unknown(f"{receiver}.{name}")


def on_store(machine: Machine, node: ir.Stmt, receiver: Value, name: str, value: Value, state: State) -> None:
    """What assigning an attribute of a library object changes."""
    if isinstance(receiver, Derived) and receiver.kind == "parameter" and name == "requires_grad":
        certain = receiver.note.isdigit() and machine.guard_depth <= int(receiver.note)
        set_trainable(machine, receiver.source, value, node, state, certain=certain)
    facts = state.facts(receiver)
    if isinstance(facts, Trainer) and name == "model":
        state.change(receiver, model=value)
    elif isinstance(facts, Config):
        kept = tuple((k, v) for k, v in facts.fields if k != name)
        state.change(receiver, fields=(*kept, (name, value)), changed=True)
    elif isinstance(facts, Model) and name in _QUANTIZED_FLAGS and value == Known(False):  # noqa: FBT003
        state.change(receiver, quantized=None)


_QUANTIZED_FLAGS = frozenset({"is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"})
"""What is unset on a model whose weights were dequantized by hand."""


def _within(part: Unknown, whole: Oid) -> bool:
    """Whether an unknown value was reached through the attributes or methods of an object."""
    return part.key.startswith(f"{whole}.")


def set_trainable(machine: Machine, model: Value, value: Value, node: ir.Node, state: State, *, certain: bool) -> None:
    """``requires_grad`` set to ``value`` on all (``certain``) or some of a model's parameters."""
    oid = state.oid(model)
    if oid is None:
        part_of = next(
            (o for o, f in state.heap.items() if isinstance(model, Unknown) and isinstance(f, (Model, Peft)) and _within(model, o)), None
        )
        if part_of is None:
            return
        oid, certain = part_of, False
    if value == Known(False):  # noqa: FBT003
        if certain and carries_adapter(model, state):
            state.change(oid, frozen=node, unfrozen=None)
        return
    state.change(oid, unfrozen=node, frozen=None)
    machine.trace.event("unfrozen", oid, node)
