"""LD609: the halves of the low-rank factors are exchanged or transposed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.lora import turned
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD609", Severity.ERROR, "K11")
def swapped_halves(checkpoint: Checkpoint) -> Iterator[Finding]:
    """`lora_A` and `lora_B` are exchanged, or stored the other way round.

    `lora_A` is (rank, in) and `lora_B` is (out, rank). Converters from formats that multiply from the other side (MLX), and
    scripts that took the first factor for `B`, produce the reverse. PEFT stops with a size mismatch, unless rank, in and out are
    equal: then the wrong product is used and nothing says so.

    Transpose both halves; when they are square otherwise, look at which converter wrote them.
    """
    config = checkpoint.comparable
    if config is None:
        return
    if not checkpoint.method.low_rank:
        yield from _of_other_methods(checkpoint)
        return
    if config.get("target_parameters") or config.get("use_bdlora"):
        return
    found = {m: roles for m, roles in checkpoint.by_module.items() if turned(config, m, roles, checkpoint.tensors)}
    if found:
        modules = list(found)
        pair = [k for k in found[modules[0]].values() if k.role.endswith(("_A", "_B"))]
        shapes = " and ".join(f"`{k.role}` {list(checkpoint.tensors[k.name].shape)}" for k in pair)
        yield checkpoint.finding(
            f"the two halves are exchanged or transposed in {counted(len(modules), 'module')} ({shapes}): {listed(modules)}",
            key=pair[0].name,
            help="PEFT stops with a size mismatch: store `lora_A` as (rank, in) and `lora_B` as (out, rank); MLX keeps them the "
            "other way round",
            data=evidence("turned", modules),
        )


def _of_other_methods(checkpoint: Checkpoint) -> Iterator[Finding]:
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for module, fit in checkpoint.structure.modules.items():
        if fit.turned:
            groups[fit.turned].append(module)
    for roles, modules in groups.items():
        fit = checkpoint.structure.modules[modules[0]]
        wanted = ", ".join(f"`{c.role}` {list(c.found)} should be {c.wanted}" for c in fit.clashes[:3])
        yield checkpoint.finding(
            f"{listed(roles)} {verb(len(roles), 'is', 'are')} exchanged or transposed in {counted(len(modules), 'module')} "
            f"({wanted}): {listed(modules)}",
            key=checkpoint.by_module[modules[0]][roles[0]].name,
            help="PEFT stops with a size mismatch: store the factors the way round that PEFT writes them",
            data=evidence("turned", modules, roles=list(roles)),
        )
