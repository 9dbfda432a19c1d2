"""Questions that programs ask before they act, and that have one answer however often they are asked."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.flow.state import State
from loradoctor.lint.flow.values import Derived, Items, Known, Ref, Template, Unknown, UserClass, Value
from loradoctor.lint.versions import Version, parse

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine

Passed = tuple[tuple[ir.Arg, Value], ...]

_METHODS = frozenset(
    """
    exists is_file is_dir isfile isdir lower upper strip lstrip rstrip casefold startswith endswith get getboolean getint
    split rsplit is_main_process
    """.split()
)
_FUNCTIONS = frozenset(
    """
    os.path.exists os.path.isfile os.path.isdir os.path.basename os.path.dirname os.environ.get os.getenv os.listdir
    importlib.util.find_spec shutil.which platform.system torch.cuda.device_count torch.cuda.get_device_capability
    builtins.len builtins.callable builtins.int builtins.str builtins.float builtins.hasattr builtins.getattr
    """.split()
)
_ASKING = re.compile(r"(.*\.)?(is|has|use|should|want|wants|needs|can)_\w+|(.*\.)?get_(local_|global_)?(rank|world_size)")


def same_answer(base: str, method: str, passed: Passed) -> Unknown | None:
    """What a call gives that has no effects, as a value that the same call gives again."""
    if method not in _METHODS if method else base not in _FUNCTIONS:
        asked = method or base
        if not _ASKING.fullmatch(asked):
            return None
    shown = []
    for arg, value in passed:
        if arg.star or not isinstance(value, (Known, Unknown, Template, Ref)):
            return None
        shown.append(value.key if isinstance(value, Unknown) else repr(value.value) if isinstance(value, Known) else repr(value))
    callee = f"{base}.{method}" if method else base
    return Unknown(f"{callee}({', '.join(shown)})")


def counted(value: Value) -> Unknown | None:
    """What ``len(…)`` counts: it is true when there is something in it."""
    if isinstance(value, Unknown) and value.key.startswith(_LENGTH) and value.key.endswith(")"):
        return Unknown(value.key[len(_LENGTH) : -1])
    return None


_LENGTH = "builtins.len("


# -- what a model is

_OF_PEFT = frozenset(
    """
    peft_config merge_and_unload unload base_model get_base_model disable_adapter active_adapter print_trainable_parameters
    get_nb_trainable_parameters peft_type add_weighted_adapter merge_adapter unmerge_adapter
    """.split()
)
_ONLY_OF_PEFT = _OF_PEFT - {"base_model", "active_adapter", "peft_config"}  # transformers sets the last on models of its own
_MAPPINGS = frozenset({"BatchEncoding", "Mapping", "MutableMapping", "UserDict"})
_NO_MAPPINGS = frozenset({"torch.Tensor", "torch.LongTensor", "builtins.dict", "builtins.list", "builtins.str"})
_OF_ENCODING = frozenset({"input_ids", "attention_mask", "data", "items", "keys", "values", "get"})
_INSTANCE = re.compile(r"isinstance\((.*),Ref\(name='peft\.PeftModel\w*'\)\)", re.DOTALL)
_ATTRIBUTE = re.compile(r"hasattr\((.*),(merge_and_unload|get_base_model)\)", re.DOTALL)


def is_instance(subject: Value | None, cls: Value | None, state: State) -> Value | None:
    """``isinstance(subject, cls)``."""
    options = cls.items if isinstance(cls, Items) else (cls,)
    names = [option.name for option in options if isinstance(option, Ref)]
    facts = state.facts(subject)
    if _is_encoding(subject) and len(names) == len(options):
        if any(name.rpartition(".")[2] in _MAPPINGS for name in names):
            return Known(value=True)
        return Known(value=False) if _NO_MAPPINGS.issuperset(names) else None
    if names and len(names) == len(options) and all(name.startswith("peft.Peft") and "Config" not in name for name in names):
        if isinstance(facts, Peft):
            return Known(value=True) if "peft.PeftModel" in names else None
        if (isinstance(facts, Model) and facts.made is not None) or isinstance(subject, Known):
            return Known(value=False)
        cls = Ref("peft.PeftModel" if "peft.PeftModel" in names else names[0])
    return Unknown(f"isinstance({subject.key},{_shown(cls)})") if isinstance(subject, Unknown) else None


def _is_encoding(subject: Value | None) -> bool:
    """Whether it is what a chat template gives since transformers 5: a mapping that is no ``dict``."""
    return isinstance(subject, Derived) and subject.kind == "chat_encoding"


def _shown(cls: Value | None) -> str:
    """A class in the text of a condition; one of this file by its number, for its text would be all of it."""
    if isinstance(cls, UserClass):
        return f"class@{cls.node.uid}"
    return f"({','.join(map(_shown, cls.items))})" if isinstance(cls, Items) else str(cls)


def has_attribute(subject: Value | None, name: object, state: State) -> Value | None:
    """``hasattr(subject, name)``."""
    facts, oid = state.facts(subject), state.oid(subject)
    if isinstance(subject, Ref) or not isinstance(name, str):
        return None
    if _is_encoding(subject) and name in _OF_ENCODING:
        return Known(value=True)
    if oid is not None and (oid, name) in state.attrs:
        return Known(value=True)
    if isinstance(facts, Peft) and name in _OF_PEFT:
        return Known(value=True)
    if isinstance(facts, Model) and facts.made is not None and not facts.native and not facts.touched and name in _ONLY_OF_PEFT:
        return Known(value=False)
    if isinstance(facts, (Model, Peft)) and name in ("module", "_orig_mod") and facts.made is not None and facts.shell is None:
        return Known(value=False)
    key = subject.key if isinstance(subject, Unknown) else str(oid) if oid is not None else None
    return None if key is None else Unknown(f"hasattr({key},{name})")


def refine(condition: str, state: State, test: ir.Node) -> None:
    """A path on which something unseen is a PEFT model: it is one from here on."""
    asked = _INSTANCE.fullmatch(condition) or _ATTRIBUTE.fullmatch(condition)
    subject = asked.group(1) if asked else None
    if subject is None or isinstance(state.heap.get(subject), Peft):
        return
    held = state.heap.get(subject)
    base = f"{subject}.base_model.model"
    state.heap[base] = held if isinstance(held, Model) else Model(injected=test, injected_by="unseen", wrapper=subject)
    state.heap[subject] = Peft(base=base, how="unseen")
    state.run.models |= {base, subject}


# -- versions

NEWEST: Mapping[str, Version] = {
    "peft": (0, 21),
    "transformers": (5, 23),
    "trl": (1, 16),
    "torch": (2, 13),
}
"""What a file without pins is written for."""

_PARSERS = re.compile(r"(packaging|pkg_resources|distutils|looseversion)\.(.*\.)?(parse|parse_version|Version|LooseVersion|StrictVersion)")
_ASKS_VERSION = re.compile(r"(?:.*\.)?is_(\w+)_version")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def version_call(machine: Machine, name: str, passed: Passed) -> Value | None:
    """A call about versions: one that parses them, looks one up, or compares them."""
    if not name.endswith(("ersion", "ersions", ".parse")):
        return None
    values = tuple(value for _, value in passed)
    if len(values) == 1 and _PARSERS.fullmatch(name) and isinstance(values[0], (Known, Ref)):
        return values[0]
    if name in ("importlib.metadata.version", "importlib_metadata.version") and values and isinstance(values[0], Known):
        return Ref(f"{values[0].value}.__version__")
    asked = _ASKS_VERSION.fullmatch(name)
    if asked and len(values) == 2:
        values = (Known(asked.group(1)), *values)
    if (asked or name.endswith(".compare_versions")) and len(values) == 3 and all(isinstance(v, Known) for v in values):
        library, op, text = (str(v.value) for v in values if isinstance(v, Known))
        found = compare(machine, Ref(f"{library}.__version__"), op, Known(text))
        return None if found is None else Known(found)
    return None


def compare(machine: Machine, left: Value, op: str, right: Value) -> bool | None:
    """How a library's version compares with a literal, if that is decided by what the file is written for."""
    mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
    if isinstance(right, Ref) and not isinstance(left, Ref):
        left, op, right = right, mirrored.get(op, op), left
    if not (isinstance(left, Ref) and left.name.endswith(".__version__") and isinstance(right, Known) and isinstance(right.value, str)):
        return None
    library = left.name.removesuffix(".__version__")
    wanted, pinned = parse(right.value), machine.versions().get(library)
    known = pinned or NEWEST.get(library)
    if not wanted or known is None or op not in _COMPARE or (pinned is None and (wanted > known or op in ("==", "!="))):
        return None
    width = max(len(known), len(wanted))
    return _COMPARE[op](known + (0,) * (width - len(known)), wanted + (0,) * (width - len(wanted)))
