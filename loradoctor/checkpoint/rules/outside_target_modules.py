"""LD605: tensors for modules that the config does not target."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.target_modules import decide
from loradoctor.checkpoint.wording import counted, evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_WHY = {
    "target_modules": "`target_modules` does not name",
    "exclude_modules": "`exclude_modules` excludes",
    "layers_to_transform": "`layers_to_transform` leaves out",
    "modules_to_save": "`modules_to_save` saves whole, so that they get no adapter,",
    "target_parameters": "`target_parameters` does not name",
}


@rule("LD605", Severity.ERROR, "K6")
def outside_target_modules(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The file has tensors for modules that the config does not target.

    PEFT builds its layers from the config and drops every tensor that fits none, without a word. The adapter then acts through a
    part of its weights only. It happens when `target_modules` was edited after training, when the config of another run was
    copied, and when one model was wrapped twice with different configs.

    Set `target_modules` to the modules that were trained; the finding names them.
    """
    config = checkpoint.comparable
    if config is None or not all(isinstance(config.get(k), (str, list, type(None))) for k in ("target_modules", "exclude_modules")):
        return  # LD522
    outside: dict[str, list[str]] = {}
    if checkpoint.method.peft_type == "ADAPTION_PROMPT":
        return  # its one name is compared as an ending
    for module in checkpoint.adapted:
        try:
            verdict = decide(config, _targeted(checkpoint, module))
        except re.error:
            return  # LD522 says which pattern is broken
        if verdict.targeted is False:
            outside.setdefault(verdict.because, []).append(module)
    for because, modules in outside.items():
        count = sum(len(checkpoint.by_module[m]) for m in modules)
        first = next(iter(checkpoint.by_module[modules[0]].values())).name
        short = sorted({m.rpartition(".")[2] for m in modules})
        pattern = config.get("target_modules") if because == "target_modules" else None
        half = isinstance(pattern, str) and any(m == pattern or m.endswith(f".{pattern}") for m in modules)
        way_out = f"correct `{because}` so that it fits what was trained ({listed(short, 6)})"
        if half:
            way_out = f"a string must match the whole path of a module, so write `.*\\.{pattern}`, or a list: `[{pattern!r}]`"
        yield checkpoint.finding(
            f"{counted(count, 'tensor')} belong to {counted(len(modules), 'module')} that {_WHY[because]}: {listed(modules)}",
            key=first,
            help=f"PEFT drops them silently, or stops when nothing matches: {way_out}",
            data=evidence("pattern-matches-whole-paths" if half else because, modules, tensors=count, last_components=short),
        )


def _targeted(checkpoint: Checkpoint, module: str) -> str:
    """The module that has to be named: `nn.MultiheadAttention` is adapted together with its `out_proj`."""
    inside = any(".base_layer.out_proj." in key.name for key in checkpoint.by_module[module].values())
    return module.removesuffix(".out_proj") if inside else module.removesuffix(".base_layer")
