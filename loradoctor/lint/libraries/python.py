"""Builtins and the standard library, as far as they pass models, parameters and paths on."""

from __future__ import annotations

from loradoctor.lint.flow.facts import Instance, Model, Peft, Trainer
from loradoctor.lint.flow.predicates import has_attribute, is_instance
from loradoctor.lint.flow.values import NONE, Derived, Items, Known, Many, Partial, Ref, Unknown, UserClass, Value
from loradoctor.lint.libraries.effects import Context, Spec, directory, of
from loradoctor.lint.record import replace


def _pass_on(context: Context) -> Value | None:
    first = context.binding.positional[:1]
    return first[0] if first and isinstance(first[0], (Items, Many, Derived)) else None


def _filter(context: Context) -> Value | None:
    source = context.arg("iterable")
    return source if isinstance(source, Derived) else None


def _enumerate(context: Context) -> Value | None:
    source, start = context.arg("iterable"), context.arg("start")
    if source is None or context.binding.open:
        return None
    return Derived("enumerate", source, "" if start in (None, Known(0)) else "elsewhere")


def _range(context: Context) -> Value | None:
    """Numbers from zero; only those tell a first turn from the later ones."""
    bounds = context.binding.positional
    from_zero = len(bounds) == 1 or bounds[:1] == (Known(0),)
    return Derived("range", bounds[0]) if from_zero and not context.binding.open else None


def _isinstance(context: Context) -> Value | None:
    return is_instance(context.arg("object"), context.arg("class"), context.state)


def _hasattr(context: Context) -> Value | None:
    return has_attribute(context.arg("object"), context.known("name"), context.state)


def _getattr(context: Context) -> Value | None:
    from loradoctor.lint.flow.attributes import attribute

    name = context.known("name")
    receiver = context.arg("object")
    default = context.arg("default")
    if isinstance(name, str) and receiver is not None:
        there = has_attribute(receiver, name, context.state)
        if default is None or there == Known(value=True):
            found = attribute(context.machine, receiver, name, context.state)[0][0]
            return Ref(f"peft.{name}") if default is not None and isinstance(found, Unknown) and found.key not in context.state.heap else found
        if there == Known(value=False):
            return default
    if isinstance(receiver, Unknown) and isinstance(name, str):
        return Unknown(f"{receiver.key}.{name}")
    if receiver == Ref("torch.optim") and not isinstance(name, str):  # chosen by a setting: it is an optimizer all the same
        return Ref("torch.optim.Optimizer")
    return None


def _setattr(context: Context) -> Value | None:
    receiver, name, value = context.arg("object"), context.known("name"), context.arg("value")
    if receiver is None or (isinstance(name, str) and isinstance(value, Known)):
        return None
    oid = context.state.oid(receiver)
    if oid is not None and isinstance(name, str) and value is not None and isinstance(context.state.attrs.get((oid, "__class__")), UserClass):
        context.state.attrs[oid, name] = value
        return None
    model = receiver.source if isinstance(receiver, Derived) else receiver
    context.change(model, touched=context.node)  # model surgery: anything may have been replaced
    context.event("touched", model)
    return None


def _block(context: Context) -> Value | None:
    """A block of a document begins: a heading, or a name it binds itself, parts it from the models before.

    A wrapper's name bound again is the same step told another way: its base is as it was.
    """
    heading, names = context.known("heading"), context.arg("names")
    bound = {n.value for n in names.items if isinstance(n, Known)} if isinstance(names, Items) else set()
    state = context.state
    for key, value in list(state.vars.items()):
        facts = state.facts(value)
        if isinstance(facts, (Model, Peft, Trainer)) and (heading is True or key[1] in bound):
            del state.vars[key]
            base = state.heap.get(facts.base) if isinstance(facts, Peft) else None
            if isinstance(facts, Peft) and isinstance(base, Model) and base.injected is facts.made:
                context.change(facts.base, injected=None, wrapper=None, frozen=None, unfrozen=None)
    for oid in [o for o in state.heap if isinstance(o, str) and o.startswith(("name:", "unseen:"))]:
        del state.heap[oid]  # a name that no block binds means another model in each
    return None


def _rmtree(context: Context) -> Value | None:
    context.state.heap.pop(directory(context.arg("path")) or "", None)
    return None


def _deepcopy(context: Context) -> Value | None:
    value = context.arg("x")
    facts = context.state.facts(value)
    if facts is None:
        return value if not isinstance(value, Unknown) else None
    if isinstance(facts, Peft):
        base = context.state.facts(of(facts.base))
        if base is not None:
            inner = context.state.new(context.node.uid, base)
            return context.state.new(context.node.uid, replace(facts, base=inner.oid))
    if isinstance(facts, Model):  # layers that are inside are copied with it
        facts = replace(facts, wrapper=None)
    return context.state.new(context.node.uid, facts)


def _partial(context: Context) -> Value | None:
    given = context.node.args
    if not given or given[0].name is not None or any(arg.star for arg in given):
        return None
    positional = iter(context.binding.positional)
    values = [next(positional) if arg.name is None else context.binding.values[arg.name] for arg in given]
    return Partial(values[0], tuple(zip(given[1:], values[1:], strict=True)))


def _namespace(context: Context) -> Value:
    made = context.new(Instance(context.node, context.name))
    oid = context.state.oid(made)
    if oid is not None:
        context.state.attrs.update({(oid, name): value for name, value in context.binding.values.items()})
    return made


def _stop(_: Context) -> Value:
    from loradoctor.lint.flow.evaluate import NEVER

    return NEVER


def _none(_: Context) -> Value:
    return NONE


_quiet = False
_PASS = Spec(("iterable",), _pass_on, recorded=_quiet)
_STOP = Spec((), _stop, recorded=_quiet)

FUNCTIONS = {
    **dict.fromkeys(
        ("builtins.list", "builtins.tuple", "builtins.sorted", "builtins.iter", "builtins.reversed", "tqdm.tqdm", "tqdm.auto.tqdm"),
        _PASS,
    ),
    "builtins.filter": Spec(("function", "iterable"), _filter, recorded=_quiet),
    "builtins.enumerate": Spec(("iterable", "start"), _enumerate, recorded=_quiet),
    "builtins.range": Spec((), _range, recorded=_quiet),
    "builtins.isinstance": Spec(("object", "class"), _isinstance, recorded=_quiet),
    "builtins.hasattr": Spec(("object", "name"), _hasattr, recorded=_quiet),
    "builtins.getattr": Spec(("object", "name", "default"), _getattr, recorded=_quiet),
    "builtins.setattr": Spec(("object", "name", "value"), _setattr, recorded=_quiet),
    "loradoctor.block": Spec(("heading", "names"), _block, recorded=_quiet),
    "shutil.rmtree": Spec(("path",), _rmtree, recorded=_quiet),
    "builtins.print": Spec((), _none, recorded=_quiet),
    **dict.fromkeys(("builtins.exit", "builtins.quit", "sys.exit", "os._exit"), _STOP),
    **dict.fromkeys(("copy.deepcopy", "copy.copy"), Spec(("x",), _deepcopy, recorded=_quiet)),
    **dict.fromkeys(("types.SimpleNamespace", "argparse.Namespace"), Spec((), _namespace, recorded=_quiet)),
    "functools.partial": Spec(("func",), _partial),
}
PATTERNS: dict[str, Spec] = {}
METHODS: dict[tuple[str, ...], dict[str, Spec]] = {}
