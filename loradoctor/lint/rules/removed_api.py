"""LD440."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Related, Severity
from loradoctor.lint.changed_names import Use, fate, of_some_commit, uses
from loradoctor.lint.libraries.deprecations import Change
from loradoctor.lint.module import Module
from loradoctor.lint.versions import OPEN
from loradoctor.rule import rule


@rule("LD440", Severity.ERROR, "QT2", "DP")
def removed_api(module: Module) -> Iterator[Finding]:
    """A name is used that the library no longer has, or does not have yet.

    The program ends with a `TypeError`, an `ImportError` or an `AttributeError` at this line, on a machine that may have been
    waited for. What counts is the version the file installs or the project pins; where there is none, the newest. When a name
    came and went is read out of the released packages. A plain rename is fixed, and so is `load_in_4bit=True`, which
    `from_pretrained` takes only inside a `BitsAndBytesConfig` since transformers 5.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("facebook/opt-350m", load_in_4bit=True)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = AutoModelForCausalLM.from_pretrained("facebook/opt-350m", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    ```
    """
    for use, others in _together(list(uses(module, "removed", "unborn"))):
        change = use.change
        what = use.what.format(fate=_lacks(module, use))
        yield Finding(
            what + "".join(f", `{other.name.rpartition('.')[2]}`" for other in others),
            use.place,
            f"{_since(module, use)}: {change.advice}" if change.advice else _since(module, use),
            related=(
                *(Related("it is imported here", module.location(use.related)) for _ in [0] if use.related is not None),
                *(Related("and this one", other.place) for other in others),
            ),
            fix=use.fix,
        )
    for use in uses(module, "kept"):
        change = use.change
        yield Finding(
            use.what.format(fate="has no" if _is_part(use) else "no longer has"),
            use.place,
            f"{_keeper(module, change)}; {_since(module, use)}",
            Severity.INFO,
        )


def _together(found: list[Use]) -> Iterator[tuple[Use, list[Use]]]:
    """Names of one import that went together and have one advice are told of at once, where each needs a hand."""
    groups: dict[object, list[Use]] = {}
    for use in found:
        change = use.change
        alone = use.statement is None or bool(use.edits)
        key = id(use) if alone or use.statement is None else (use.statement.uid, change.library, change.removed, change.advice)
        group = groups.setdefault(key, [])
        if use.name not in [other.name for other in group]:
            group.append(use)
    return ((first, others) for first, *others in groups.values())


def _lacks(module: Module, use: Use) -> str:
    """`has no argument x`, `no longer has X`, in which version."""
    part = _is_part(use)
    if fate(module, use.change) == "unborn":
        return f"{_pin(module, use.change)} has no" if not part else f"of {use.change.library} {_pin(module, use.change)} has no"
    return "has no" if part else "no longer has"


def _keeper(module: Module, change: Change) -> str:
    if of_some_commit(module, change):
        return f"the commit of {change.library} that is pinned may still have it"
    return f"{change.library} {_pin(module, change)}, which this file installs, still has it"


def _is_part(use: Use) -> bool:
    return any(word in use.what for word in ("argument", "method", "value"))


def _since(module: Module, use: Use) -> str:
    change = use.change
    if fate(module, change) == "unborn":
        return f"{change.library} {change.since} brought it" + ("" if change.advice else ": raise the pin, or do without")
    if change.removed == "0.0.1":
        return f"it never existed in {change.library}"
    return f"{change.library} {change.removed} removed it" + (", and takes it without a word" if change.ignored else "")


def _pin(module: Module, change: Change) -> str:
    """The version this file is written for, without what an upper bound leaves open."""
    return ".".join(str(part) for part in module.versions[change.library] if part != OPEN)
