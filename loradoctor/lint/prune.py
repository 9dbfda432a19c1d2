"""Which functions that nothing calls are worth running: those in whose reach something begins that a rule looks at.

Most of what rules look at needs a beginning: a model that is loaded, wrapped or trained, an adapter that is read. A function that
only passes on, measures or saves what it is given is run where something is passed to it; run by itself, with arguments nothing
is known of, it shows nothing. Library code is nearly all of that kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow.values import Function, UserClass
from loradoctor.lint.libraries import canonical, function_spec

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine
    from loradoctor.lint.flow.state import State

PASSIVE = frozenset(
    """
    add_param_group apply block compile copy deepcopy detach evaluate forward fspath generate get_state_dict get_submodule
    initialize items named_parameters npu parameters predict prepare print range requires_grad requires_grad_ reversed rmtree
    save_state share_memory state_dict str type unwrap_model xpu zero_grad
    """.split()
)
"""Words of the vocabulary that only do something to what another one has made."""

_TORCH = ("torch.nn.", "torch.optim.", "builtins.", "os.", "functools.", "copy.", "pathlib.", "tqdm.")


def reach(machine: Machine, world: State) -> frozenset[str]:
    """The words that begin something, and to a fixpoint the names of this file's functions and classes that hold one."""
    words = set(machine.vocabulary - PASSIVE)
    if "torch" not in machine.imports:
        words -= {"load", "save"}
    words |= {name for (_, name), value in world.vars.items() if world.oid(value) is not None}
    for node in machine.program.body:
        if isinstance(node, ir.Import):
            words |= {bound for bound, dotted in node.bindings if _begins(dotted)}
    functions = [(f.node, owner) for f, owner in machine.functions if isinstance(f.node, ir.Function)]
    grown = True
    while grown:
        found: set[str] = set()
        for node, owner in functions:
            if node.words.isdisjoint(words):
                continue
            # `__init__` stands in every class: what it begins goes by the name of its own.
            found.add(owner.node.name if owner is not None and node.name.startswith("__") else node.name)
        grown = not found <= words
        words |= found
    return frozenset(words)


def _begins(dotted: str) -> bool:
    name = canonical(dotted)
    return not name.startswith(_TORCH) and (dotted.partition(".")[0] in ("peft", "trl", "unsloth") or function_spec(name) is not None)


def worth_starting(function: Function, owner: UserClass | None, words: frozenset[str]) -> bool:
    """Whether a function is worth running by itself: it or the making of its object begins something."""
    node = function.node
    if not isinstance(node, ir.Function) or not words.isdisjoint(node.words) or node.decorators:
        return True
    return owner is not None and _class_begins(owner, words)


def _class_begins(owner: UserClass, words: frozenset[str]) -> bool:
    return owner.node.name in words or any(isinstance(base, UserClass) and _class_begins(base, words) for base in owner.bases)
