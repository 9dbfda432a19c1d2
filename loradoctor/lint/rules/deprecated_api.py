"""LD441."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Related, Severity
from loradoctor.lint.changed_names import Use, uses
from loradoctor.lint.module import Module
from loradoctor.rule import rule


@rule("LD441", Severity.WARNING, "DP")
def deprecated_api(module: Module) -> Iterator[Finding]:
    """A name is used that the library warns about and will remove.

    The program still works with the version the project pins (the newest, where it pins none) and prints a warning; with a
    later release it will end here. A name whose successor only the newest releases have is told to who pins one of those.
    Each name is told once for a file, with every place it is used at, and a plain rename is fixed at all of them.

    ```python
    import torch
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained("adapters/poet", is_trainable=True)
    scaler = torch.cuda.amp.GradScaler()
    ```
    What to write instead:
    ```python
    import torch
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained("adapters/poet", is_trainable=True)
    scaler = torch.amp.GradScaler("cuda")
    ```
    """
    by_name: dict[str, list[Use]] = {}
    for use in uses(module, "deprecated"):
        by_name.setdefault(use.name, []).append(use)
    for name, found in by_name.items():
        first, *others = found
        change = first.change
        edits = tuple(edit for use in found for edit in use.edits)
        whole = edits and all(use.edits for use in found)
        end = f"{change.library} {change.removed} removes it" if change.removed else f"a later {change.library} will remove it"
        advice = f": {change.advice}" if change.advice else ""
        yield Finding(
            f"`{name.rpartition('.')[2]}` is deprecated" + (f" since {change.library} {change.deprecated}" if change.deprecated != "0" else ""),
            first.place,
            f"{change.end or end}{advice}",
            related=tuple(Related("and here", use.place) for use in others),
            fix=Fix(first.title, tuple(dict.fromkeys(edits))) if whole else None,
        )
