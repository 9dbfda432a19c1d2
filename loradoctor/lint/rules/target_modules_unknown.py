"""LD404."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.fitting import Fitting, fittings, joined, listed, written
from loradoctor.lint.flow.values import NONE, Items, Value
from loradoctor.lint.libraries.architectures import EXPRESSION, chosen_by_peft
from loradoctor.lint.module import Arrival, Module, literal
from loradoctor.lint.syntax import dotted, walk
from loradoctor.rule import rule

_LINEAR = frozenset({"peft.LoraConfig", "peft.AdaLoraConfig", "peft.LoHaConfig", "peft.LoKrConfig", "peft.OFTConfig", "peft.BOFTConfig"})
"""Methods that adapt every kind of linear layer, and so take `"all-linear"` on any model."""
_PLAIN = re.compile(r"[\w.,\s-]*")


@rule("LD404", Severity.ERROR, "CF4")
def target_modules_unknown(module: Module) -> Iterator[Finding]:
    """No module of the base model has one of the names in `target_modules`.

    What layers are called differs between architectures: `q_proj` is a name of Llama's and OPT's, GPT-2 has `c_attn`, BERT
    `query`. `get_peft_model` raises when it finds none, after the model has been downloaded and loaded. For some architectures
    PEFT chooses the layers itself; for others it raises when `target_modules` is not given. In a list names are compared letter
    by letter: an expression there names nothing.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(r=8, target_modules=["c_attn"], task_type="CAUSAL_LM"))
    ```
    """
    if module.is_test:
        return
    reported: set[int] = set()
    for call, arrivals in fittings(module):
        absent = [_absent(module, f) for f in arrivals]
        first = next((f for f, is_absent in zip(arrivals, absent, strict=True) if is_absent), None)
        if first is None or first.architecture is None or _tried(module, first.site.node):
            continue
        reported.add(call.uid)
        names = [n for n in listed(first.config.get("target_modules")) or () if n]
        if any(joined(module, written(module, call, "target_modules", n), n) for n in names):
            continue  # a missing comma has a rule of its own
        certain = module.trace.complete and all(absent)
        value = first.config.get("target_modules")
        exist = ", ".join(f"`{name}`" for name in first.architecture.in_blocks[:8])
        given = value not in (None, NONE)
        yield module.finding(
            written(module, call, "target_modules"),
            f"{_said(value)} of `{first.base}`"
            if given
            else f"`target_modules` is not given, and PEFT does not choose it for `{first.base}`",
            severity=Severity.ERROR if certain else Severity.WARNING,
            related=module.related(first.site.node, "the adapter goes in here") if first.site.node is not call else (),
            help=f"PEFT raises when the model is wrapped; the layers of this architecture, `{first.architecture.name}`, are called {exist}",
            fix=_every_layer(module, call, first),
            data={"architecture": first.architecture.name, "modules": first.architecture.in_blocks},
        )
    for site in module.calls("peft.*"):
        found = site.sometimes(_expressions) if site.name.endswith("Config") and site.node.uid not in reported else None
        if found is None:
            continue
        items = [i for i in listed(found.arg("target_modules")) or () if i]
        instead = f"; pass the expression as a string, for the whole dotted name: `{_whole(items[0])}`" if len(items) == 1 else ""
        yield module.finding(
            written(module, site.node, "target_modules"),
            "`target_modules` is a list of expressions, and the items of a list are compared letter by letter",
            severity=Severity.ERROR if site.always(_expressions) else Severity.WARNING,
            help=f"no module is called so and PEFT raises when the model is wrapped{instead or '; list the plain names'}",
        )


def _whole(item: str) -> str:
    return item if item.startswith((".*", "^")) else f".*{item}"


def _said(value: Value | None) -> str:
    text = literal(value)
    if isinstance(text, str):
        return f"`{text}` matches no module"
    names = [n for n in listed(value) or () if n]
    if len(names) == 1:
        return f"`{names[0]}` is no module"
    return f"none of {', '.join(f'`{n}`' for n in names[:4])}{' …' if len(names) > 4 else ''} is a module"


def _absent(module: Module, fitting: Fitting) -> bool:
    """Whether it is certain that nothing is adapted."""
    kind, config = fitting.architecture, fitting.config
    if kind is None:
        return False
    value = config.get("target_modules")
    if value in (None, NONE):
        known = chosen_by_peft(config.cls.partition(".")[2])
        chosen_otherwise = config.get("target_parameters") not in (None, NONE) or not config.complete
        return known is not None and kind.name not in known and not chosen_otherwise
    if config.get("target_parameters") not in (None, NONE):
        return False
    text = literal(value)
    if isinstance(text, str):
        return not _PLAIN.fullmatch(text) and kind.matches_expression(text) is False
    names = listed(value)
    own = module.program.words
    return names is not None and names != [] and all(n is not None and not kind.may_match(n) and n.rpartition(".")[2] not in own for n in names)


def _expressions(arrival: Arrival) -> bool:
    names = listed(arrival.arg("target_modules"))
    return names is not None and names != [] and all(n is not None and EXPRESSION.search(n) for n in names)


def _tried(module: Module, wrap: ir.Call) -> bool:
    """Whether the call stands in a `try` whose handler wraps a model again: the failure is expected."""
    for statement in walk(module.program.body):
        if isinstance(statement, ir.Try) and wrap in walk(statement.body):
            again = [n for handler in statement.handlers for n in walk(handler.body) if isinstance(n, ir.Call)]
            if any(dotted(n.func).rpartition(".")[2] == dotted(wrap.func).rpartition(".")[2] for n in again):
                return True
    return False


def _every_layer(module: Module, call: ir.Call, fitting: Fitting) -> Fix | None:
    """`"all-linear"` in the place of the names, where the method takes it and the value stands in the call."""
    if fitting.config.cls not in _LINEAR or module.before("peft", "0.8"):
        return None
    title = 'adapt every linear layer: `target_modules="all-linear"`'
    argument = next((a for a in call.args if a.name == "target_modules"), None)
    if argument is None:
        open_call = any(a.star for a in call.args) or fitting.config.get("target_modules") is not None
        return None if open_call else Fix(title, (module.add_argument(call, 'target_modules="all-linear"'),), safe=False)
    if isinstance(fitting.config.get("target_modules"), Items) and not isinstance(argument.value, ir.Sequence):
        return None
    return Fix(title, (module.replace(argument.value, '"all-linear"'),), safe=False)
