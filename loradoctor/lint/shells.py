"""What `torch.compile` and the data-parallel classes put around a model, and which names stand for the wrapped thing.

The executor keeps the model's identity through such a call, as most rules want it. Where the shell itself matters, the name
decides: after ``fast = torch.compile(model)`` the model is bare under its old name.
"""

from __future__ import annotations

from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.flow.values import Value
from loradoctor.lint.module import Arrival, Module


def shell_around(arrival: Arrival, value: Value | None, written: ir.Expr, names: tuple[str, ...]) -> ir.Call | None:
    """The call, one of ``names``, that put a shell around ``value``, when ``written`` stands for the wrapped thing."""
    facts = arrival.facts(value, Model) or arrival.facts(value, Peft)
    shell = facts.shell if facts else None
    module = arrival.module
    if facts is None or facts.touched or not isinstance(shell, ir.Call) or module.sites[shell.uid].name not in names:
        return None
    return shell if written is shell or module.text(written) in _names(module, shell) else None


def _names(module: Module, shell: ir.Call) -> set[str]:
    return {module.text(t) for a in module.assignments() if a.value is shell for t in a.targets}
