"""LD607: one half of a low-rank pair is there and the other is not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.fitting import partner
from loradoctor.checkpoint.methods.lora import halves
from loradoctor.checkpoint.wording import counted, evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD607", Severity.ERROR, "K8")
def orphan_half(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A module has `lora_A` without `lora_B`, or the reverse; likewise the halves of other methods.

    The missing half keeps its initial value. Without `lora_B` (zero) the module does nothing; without `lora_A` (random) it does
    something else every time the adapter is loaded, and merging gives yet another model.

    Save the adapter again. If only `lora_B` is lost, dropping the orphaned `lora_A` changes nothing.
    """
    if checkpoint.comparable is None:
        return
    if not checkpoint.method.low_rank:
        yield from _of_other_methods(checkpoint)
        return
    orphans: dict[str, list[str]] = {"A": [], "B": []}
    for module, roles in checkpoint.by_module.items():
        pair = halves(roles)
        if pair is not None and (pair[0] is None) != (pair[1] is None):
            orphans["A" if pair[1] is None else "B"].append(module)
    consequence = {
        "A": "these modules do nothing",
        "B": "their other half stays random: the model answers differently after every load",
    }
    for half, modules in orphans.items():
        if modules:
            other = "B" if half == "A" else "A"
            key = next(k for r, k in checkpoint.by_module[modules[0]].items() if r.endswith(half))
            yield checkpoint.finding(
                f"{counted(len(modules), 'module')} {'has' if len(modules) == 1 else 'have'} `lora_{half}` without "
                f"`lora_{other}`: {listed(modules)}",
                key=key.name,
                help=f"{consequence[half]}: save the adapter again from the trained model",
                data=evidence(f"orphan-{half}", modules),
            )


def _of_other_methods(checkpoint: Checkpoint) -> Iterator[Finding]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for module, fit in checkpoint.structure.modules.items():
        for role in fit.missing if not fit.strange else ():
            if (half := partner(role)) in checkpoint.by_module[module]:
                groups[half, role].append(module)
    for (half, other), modules in groups.items():
        yield checkpoint.finding(
            f"{counted(len(modules), 'module')} {'has' if len(modules) == 1 else 'have'} `{half}` without `{other}`: {listed(modules)}",
            key=checkpoint.by_module[modules[0]][half].name,
            help=f"`{other}` stays as it was initialised, and the model differs from the trained one: save the adapter again",
            data=evidence(f"orphan-{half}", modules),
        )
