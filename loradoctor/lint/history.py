"""What a notebook's execution counts and stored outputs tell of the runs before it was saved.

Counts with gaps are the rule: each run of a cell takes the next number, and only a cell's last one is kept. Counts that fall
from one cell to a later one are evidence of another order, as long as no number in question occurs twice, as they do when the
kernel was restarted in between.
"""

from __future__ import annotations

import re

from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft, Trainer
from loradoctor.lint.flow.values import Value
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.lint.source import Cell

_KEEPS = re.compile(r"prepare_model_for_|resize_token_embeddings|\.(?:to|cuda|half|float|bfloat16|train|eval)\(|get_peft_model")
"""Calls whose result is the model they were given: an assignment of one does not start from a fresh base."""


def cell_of(module: Module, node: ir.Node | None) -> Cell | None:
    """The cell of this notebook that a node stands in."""
    if node is None or module.source.kind != "notebook" or module.unit(node).source is not module.source:
        return None
    index = module.source.cell_of(module.span(node)[0])
    return next((cell for cell in module.source.cells if cell.index == index), None)


def repeats(module: Module, site: Site) -> bool:
    """Whether running the cell of ``model = get_peft_model(model, …)`` again wraps the wrapped model once more.

    It does not where the cell makes or takes apart the model itself, asks first, or only defines a function.
    """
    cell = cell_of(module, site.node)
    wrap = next((a for a in module.assignments() if a.value is site.node), None)
    given = next((arg.value for arg in site.node.args if arg.name in (None, "model")), None)
    if cell is None or wrap is None or not isinstance(given, ir.Name) or module.around(site.node):
        return False
    if all(not isinstance(target, ir.Name) or target.id != given.id for target in wrap.targets):
        return False
    if not any(statement is wrap for statement in module.program.body):
        return False
    before = module.source.text[cell.start : module.span(wrap)[0]]
    made = re.finditer(rf"^[ \t]*{re.escape(given.id)}\b[^=\n]*=(?!=)(?P<value>.*)$", before, re.MULTILINE)
    return all(_KEEPS.search(assigned["value"]) for assigned in made)


def run_again(module: Module, site: Site) -> Cell | None:
    """A cell after that of ``site`` which ran on its wrapped model before ``site`` ran again, with no fresh base in between."""
    cell, loaded = cell_of(module, site.node), _loaded(module, site)
    if cell is None or cell.execution_count is None or loaded is None:
        return None
    since = [c for c in module.source.cells if c.execution_count is not None and loaded < c.execution_count < cell.execution_count]
    if len(since) != len({c.execution_count for c in since}):
        return None
    used = [c for c in _users(module, site) if c.index > cell.index and c in since]
    return used[0] if len(used) > 1 else None


def _loaded(module: Module, site: Site) -> int | None:
    """The number of the last run that made a model under the name that ``site`` is given."""
    numbers = []
    for arrival in site.arrivals:
        facts = arrival.facts(arrival.arg("model"), Model)
        made = cell_of(module, facts.made) if facts else None
        if made is None or made.execution_count is None:
            return None
        numbers.append(made.execution_count)
    return max(numbers, default=None)


def _users(module: Module, site: Site) -> list[Cell]:
    """The cells that do something to the model which ``site`` wraps, in the notebook's order."""
    wrapped = {arrival.visit.result for arrival in site.arrivals}
    cells: dict[int, Cell] = {}
    for other in module.sites.values():
        if other is not site and any(_touches(a, wrapped) for a in other.arrivals) and (cell := cell_of(module, other.node)):
            cells[cell.index] = cell
    return [cells[index] for index in sorted(cells)]


def _touches(arrival: Arrival, wrapped: set[Value]) -> bool:
    trainer = arrival.facts(arrival.receiver, Trainer)
    values = (trainer.model if trainer else arrival.receiver, *arrival.visit.binding.values.values())
    return any(value in wrapped for value in values if value is not None and arrival.facts(value, Peft) is not None)


def trained_after(module: Module, saved: ir.Node, trained: ir.Node) -> bool:
    """Whether a training that stands above a save has last run after it."""
    first, last = cell_of(module, saved), cell_of(module, trained)
    counts = [c.execution_count for c in module.source.cells if c.execution_count is not None]
    if first is None or last is None or first.execution_count is None or last.execution_count is None:
        return False
    return last.index < first.index and first.execution_count < last.execution_count and len(counts) == len(set(counts))
