"""LD618: `target_modules` names something that the base does not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.checkpoint.fit import diagnose, shown
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD618", Severity.WARNING, "C6")
def target_absent_in_base(checkpoint: Checkpoint) -> Iterator[Finding]:
    """`target_modules` lists a name that no module of the base has.

    PEFT raises only when none of the names matches; a misspelled one among good ones is passed over in silence. The adapter then
    adapts less than its config says, and whoever reads the config is misled.

    Remove the name from the config, or train again with the name that the base uses (`model.named_modules()` lists them).
    """
    evidence, config = checkpoint.evidence, checkpoint.config
    if evidence is None or evidence.loads is None or config is None or not evidence.loads.modules:
        return
    names = config.get("target_modules")
    if not isinstance(names, list) or evidence.loads.error_type or diagnose(checkpoint) is not None:
        return
    modules = evidence.loads.modules
    adapted = {key.module for key in checkpoint.keys if key.role}
    # A name that the file has tensors for was matched by whatever renaming transformers applies to this architecture.
    absent = sorted(
        name
        for name in names
        if isinstance(name, str) and not _matches(name, modules) and not _matches(name, adapted) and name != "all-linear"
    )
    if absent:
        yield checkpoint.finding(
            f"{len(absent)} of {len(names)} names in `target_modules` match no module of `{evidence.loads.class_name}`: {shown(absent)}",
            "target_modules",
            of="config",
            help="PEFT passes over them in silence, so less is adapted than the config says: remove them or correct the spelling",
            data={"cause": "absent", "count": len(absent), "examples": absent[:3]},
        )


def _matches(name: str, modules: tuple[str, ...] | set[str]) -> bool:
    """PEFT's test for one entry of a list: the whole path, or its end after a dot."""
    return any(module == name or module.endswith(f".{name}") for module in modules)
