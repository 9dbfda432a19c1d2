"""LD402."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.values import Items, Known, Value
from loradoctor.lint.libraries.architectures import inner_names
from loradoctor.lint.module import Module, literal
from loradoctor.rule import rule

_EVERY_LAYER = re.compile(r"all(?:[-_ ]?linear)?(?:[-_ ]?(?:layers?|modules?))?", re.IGNORECASE)
_NAMES = re.compile(r"\s*\w+(?:\.\w+)*(?:\s*,\s*\w+(?:\.\w+)*)*\s*,?\s*")


@rule("LD402", Severity.ERROR, "CF2")
def target_modules_string(module: Module) -> Iterator[Finding]:
    """`target_modules` is a string that matches no module.

    PEFT reads a string as one regular expression for the whole dotted name of a module, `model.layers.0.self_attn.q_proj`.
    The bare name of a layer, or several with commas between, matches nothing and `get_peft_model` raises. Only the string
    `"all-linear"` has a meaning of its own, and it has none inside a list: alone there it matches nothing, beside other names
    it is left out without a word.

    ```python
    from peft import LoraConfig

    config = LoraConfig(r=8, target_modules="q_proj,v_proj", task_type="CAUSAL_LM")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig

    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    ```
    """
    if module.is_test:
        return
    for site in module.calls("peft.*"):
        if not site.name.endswith("Config"):
            continue
        wrong = next((w for a in site.arrivals if (w := _wrong(module, a.arg("target_modules")))), None)
        if wrong is None:
            continue
        message, instead, consequence = wrong
        arg = site.argument("target_modules")
        written = arg is not None and isinstance(arg.value, (ir.Const, ir.Sequence))
        yield module.finding(
            arg.value if arg else site.node,
            message,
            help=f"{consequence}; write `target_modules={instead}`" if instead else f"{consequence}; name the modules, or pass the string",
            fix=Fix(f"write `{instead}`", (module.replace(arg.value, instead),)) if instead and arg and written else None,
        )


def _wrong(module: Module, value: Value | None) -> tuple[str, str, str] | None:
    """What is wrong with the value, what to write in its place, and what comes of it."""
    if isinstance(value, Items):
        names = [literal(item) for item in value.items]
        if "all-linear" not in names:
            return None
        if len(names) == 1:
            return "`all-linear` in a list is the name of a module", '"all-linear"', "no module is called so and `get_peft_model` raises"
        return "`all-linear` beside other names in a list has no effect", "", "only the other names are adapted, without a word"
    if not isinstance(value, Known) or not isinstance(value.value, str):
        return None
    text = value.value
    shown = f"`target_modules={text!r}` is a regular expression that matches no module".replace("'", '"')
    if _EVERY_LAYER.fullmatch(text):
        return None if text.lower() == "all-linear" else (shown, '"all-linear"', "`get_peft_model` raises")
    if not _NAMES.fullmatch(text):
        return None
    names_in = re.findall(r"[\w.]+", text)
    if "," not in text and (text not in inner_names() or text in module.program.words):
        return None
    listed = ", ".join(f'"{name}"' for name in names_in)
    return shown, f"[{listed}]", "a string must match the whole dotted name, and `get_peft_model` raises"
