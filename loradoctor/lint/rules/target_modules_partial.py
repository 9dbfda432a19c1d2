"""LD403."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from loradoctor.diagnostic import Edit, Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.fitting import LITERAL, Fitting, fittings, joined, listed, written
from loradoctor.lint.libraries.architectures import EXPRESSION, Architecture, vocabulary
from loradoctor.lint.module import Module, Site, literal
from loradoctor.rule import rule

_ROLES = {
    name: role
    for role, names in {
        "input of the attention": "q_proj k_proj v_proj query key value q k v q_lin k_lin v_lin query_proj key_proj value_proj "
        "query_key_value qkv_proj c_attn Wqkv qkv in_proj W_pack wqkv",
        "output of the attention": "o_proj out_proj out_lin",
        "MLP": "gate_proj up_proj down_proj gate_up_proj fc1 fc2 fc_in fc_out dense_h_to_4h dense_4h_to_h c_fc lin1 lin2 wi wi_0 wi_1",
    }.items()
    for name in names.split()
}
"""What a name stands for wherever it is used; names that stand for different layers in different models are left out."""
_CLOSE = 0.8
"""How alike a name must be to one that exists to count as its misspelling: `q_porj` is at 0.83 to `q_proj`, `k_proj` too, but is a name itself."""


@rule("LD403", Severity.ERROR, "CF3")
def target_modules_partial(module: Module) -> Iterator[Finding]:
    """A name in `target_modules` names no module, and because another does, nothing is said.

    PEFT raises only when nothing matches at all. A misspelt name, a missing comma that makes one name of two, an expression
    among plain names or the name of another architecture's layer is passed over: those layers stay as they are, and
    the only trace is a smaller number of trainable parameters.

    ```python
    from peft import LoraConfig

    config = LoraConfig(r=8, target_modules=["q_proj" "k_proj", "v_proj"], task_type="CAUSAL_LM")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig

    config = LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM")
    ```
    """
    if module.is_test:
        return
    arrivals = {call.uid: found for call, found in fittings(module)}
    for site in module.calls("peft.*"):
        if not site.name.endswith("Config"):
            continue
        told: set[str] = set()
        for finding, item in _in_the_list(module, site, arrivals.get(site.node.uid, [])):
            told.add(item)
            yield finding
        yield from _in_the_model(module, site, arrivals.get(site.node.uid, []), told)
        yield from _not_copied(module, site, arrivals.get(site.node.uid, []))


def _in_the_list(module: Module, site: Site, arrivals: list[Fitting]) -> Iterator[tuple[Finding, str]]:
    """What is wrong whatever the model: joined names, expressions, and misspellings that only a swap of letters explains."""
    told: set[str] = set()
    for arrival in site.arrivals:
        names = listed(arrival.arg("target_modules")) or []
        known = [n for n in names if n is not None]
        for name in known:
            if name in told or name in module.program.words:
                continue
            node = written(module, site.node, "target_modules", name)
            if len(parts := joined(module, node, name)) > 1:
                told.add(name)
                both = " and ".join(f"`{p}`" for p in parts)
                yield (
                    module.finding(
                        node,
                        f"a comma is missing between {both}: together they are one name, `{name}`",
                        help="no module is called so, and neither layer is adapted; put the comma",
                        fix=Fix("put the comma", _commas(module, node)),
                    ),
                    name,
                )
            elif EXPRESSION.search(name) and not all(EXPRESSION.search(n) for n in known):
                told.add(name)
                yield (
                    module.finding(
                        node,
                        f"`{name}` is an expression among the names of a list, where names are compared letter by letter",
                        help="it matches nothing, and the layers it is meant for get no adapter; list their names, or pass one string for all",
                    ),
                    name,
                )
            elif not any(f.architecture for f in arrivals) and (meant := _swapped(name, known)):
                told.add(name)
                yield _misspelt(module, site.node, node, name, meant), name


def _in_the_model(module: Module, site: Site, arrivals: list[Fitting], told: set[str]) -> Iterator[Finding]:
    """Names that the base model has no module for."""
    first = next((f for f in arrivals if f.architecture is not None), None)
    if first is None or first.architecture is None:
        return
    kind = first.architecture
    names = [n for n in listed(first.config.get("target_modules")) or () if n is not None]
    absent = [n for n in names if not kind.may_match(n) and n.rpartition(".")[2] not in module.program.words and not EXPRESSION.search(n)]
    if len(absent) == len(names) or any(f.architecture is not kind for f in arrivals):
        return
    rest = [n for n in absent if n not in told]
    present = [n for n in names if n not in absent]
    foreign = []
    for name in rest:
        meant = _close(name, kind)
        if meant is None:
            foreign.append(name)
        else:
            yield _misspelt(module, site.node, written(module, site.node, "target_modules", name), name, meant)
    if foreign:
        yield _foreign(module, site, first, kind, foreign, present)


def _not_copied(module: Module, site: Site, arrivals: list[Fitting]) -> Iterator[Finding]:
    """`modules_to_save` of which the base model has none."""
    copies = [n for f in arrivals for n in listed(f.config.get("modules_to_save")) or () if n]
    absent = copies and all(
        f.architecture is not None and not any(f.architecture.may_copy(n) or n in module.program.words for n in copies) for f in arrivals
    )
    if not absent or any(literal(f.config.get("task_type")) != "CAUSAL_LM" for f in arrivals):
        return  # for the other tasks PEFT adds the heads itself, or another rule asks for the task
    kind, base = arrivals[0].architecture, arrivals[0].base
    meant = get_close_matches(copies[0].rpartition(".")[2], kind.last_names, n=1, cutoff=_CLOSE) if kind else []
    yield module.finding(
        written(module, site.node, "modules_to_save"),
        f"{', '.join(f'`{n}`' for n in dict.fromkeys(copies))} in `modules_to_save` {'is' if len(set(copies)) == 1 else 'are'} no module of `{base}`",
        related=module.related(arrivals[0].site.node, "the adapter goes in here") if arrivals[0].site.node is not site.node else (),
        help="nothing is said, trained or saved" + (f"; did you mean `{meant[0]}`?" if meant else ""),
    )


def _foreign(module: Module, site: Site, first: Fitting, kind: Architecture, names: list[str], present: list[str]) -> Finding:
    shown = ", ".join(f"`{n}`" for n in names)
    lost = _lost(kind, names, present)
    fused = [f for f in kind.fused if f not in present and _ROLES.get(f) in lost]
    severity = Severity.ERROR if fused else Severity.WARNING if lost else Severity.INFO
    have = ", ".join(f"`{n}`" for n in fused or kind.in_blocks[:8])
    return module.finding(
        written(module, site.node, "target_modules", names[0] if len(names) == 1 else ""),
        f"{shown} {'is no module' if len(names) == 1 else 'are no modules'} of `{first.base}`",
        severity=severity,
        related=module.related(first.site.node, "the adapter goes in here") if first.site.node is not site.node else (),
        help=f"PEFT passes over {'it' if len(names) == 1 else 'them'} without a word"
        + (f", and the {' and the '.join(sorted(lost))} of each layer {'gets' if len(lost) == 1 else 'get'} no adapter" if lost else "")
        + f"; this architecture has {have}",
        data={"architecture": kind.name, "modules": kind.in_blocks},
    )


def _lost(kind: Architecture, names: list[str], present: list[str]) -> set[str]:
    """The parts of a layer that only absent names stand for, of those that the architecture has."""
    there = {_ROLES[n] for n in kind.in_blocks if n in _ROLES}
    covered = {_ROLES.get(n.rpartition(".")[2]) for n in present}
    return {role for n in names if (role := _ROLES.get(n.rpartition(".")[2]))} & there - covered


def _close(name: str, kind: Architecture) -> str | None:
    """The name that exists and was meant."""
    head, dot, last = name.rpartition(".")
    if last in vocabulary():
        return None
    found = get_close_matches(last, kind.last_names, n=1, cutoff=_CLOSE)
    return f"{head}{dot}{found[0]}" if found and kind.may_match(f"{head}{dot}{found[0]}") else None


def _swapped(name: str, listed_names: list[str]) -> str | None:
    """The name of some architecture's layer that has the same letters, where the other names of the list are names too."""
    others = [n for n in listed_names if n != name]
    if len(name) < 5 or name in _ROLES or name in vocabulary() or not others or not all(n.rpartition(".")[2] in vocabulary() for n in others):
        return None
    letters = sorted(name)
    found = [word for word in vocabulary() if len(word) == len(name) and sorted(word) == letters and word not in others]
    return found[0] if len(found) == 1 else None


def _misspelt(module: Module, call: ir.Call, node: ir.Expr, name: str, meant: str) -> Finding:
    text = module.text(node) if isinstance(node, ir.Const) else ""
    edit = module.replace(node, text.replace(name, meant)) if text.count(name) == 1 else None
    return module.finding(
        node,
        f"`{name}` names no module; `{meant}` is the nearest name there is",
        help=f"PEFT passes over it without a word, and `{meant}` is not adapted; correct the name",
        fix=Fix(f"write `{meant}`", (edit,)) if edit and node is not call else None,
    )


def _commas(module: Module, node: ir.Expr) -> tuple[Edit, ...]:
    start, _ = module.span(node)
    ends = [start + m.end() for m in LITERAL.finditer(module.text(node))]
    return tuple(module.source.edit(end, end, ",") for end in ends[:-1])
