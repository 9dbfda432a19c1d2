"""LD406."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.module import Module
from loradoctor.rule import rule

_MUTATORS = frozenset({"append", "extend", "insert", "update", "sort", "reverse", "clear"})
"""Methods of lists, sets and dicts that change them and return None."""
_FIELDS = frozenset({"target_modules", "modules_to_save", "exclude_modules", "feedforward_modules", "rank_pattern", "alpha_pattern"})
"""Fields that take such a container and mean something else by None."""


@rule("LD406", Severity.ERROR, "CF7")
def mutator_as_argument(module: Module) -> Iterator[Finding]:
    """A field of an adapter configuration is given the result of a method that returns None.

    `append`, `extend`, `update` and `sort` change their list and return nothing. The field is None, which PEFT takes for
    "not set": no module is saved beside the adapter, or the default targets are used. The list itself has grown, and if
    another field shares it, that field gets the name instead.

    ```python
    from peft import LoraConfig

    targets = ["query", "value"]
    config = LoraConfig(target_modules=targets, modules_to_save=targets.append("score"), task_type="FEATURE_EXTRACTION")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig

    targets = ["query", "value"]
    config = LoraConfig(target_modules=targets, modules_to_save=["score"], task_type="FEATURE_EXTRACTION")
    ```
    """
    for site in module.calls("peft.*"):
        if not site.name.endswith("Config"):
            continue
        for arg in site.node.args:
            call = arg.value
            if arg.name not in _FIELDS or not isinstance(call, ir.Call) or not isinstance(call.func, ir.Attr):
                continue
            if call.func.name in _MUTATORS:
                yield module.finding(
                    call,
                    f"`{arg.name}` is given the result of `{call.func.name}`, which is always None",
                    help=f"`{arg.name}` counts as not set, and the list is changed for whoever else holds it; change the list before",
                )
