"""LD609: the halves of the low-rank factors are exchanged or transposed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.key import Key
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
    found: dict[str, Mapping[str, Key]] = {}
    if checkpoint.method.low_rank and not config.get("target_parameters") and not config.get("use_bdlora"):
        found = {m: roles for m, roles in checkpoint.by_module.items() if turned(config, m, roles, checkpoint.tensors)}
    yield from _by_shapes(checkpoint, found.keys() | _wrong_rank(checkpoint))
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


def _wrong_rank(checkpoint: Checkpoint) -> set[str]:
    """Modules of LoRA with clashes besides the order of axes, which the rank explains: LD611."""
    modules = checkpoint.structure.modules.items()
    return {m for m, fit in modules if any(0 in c.found for c in fit.clashes) or (checkpoint.method.low_rank and len(fit.clashes) > 1)}


def _by_shapes(checkpoint: Checkpoint, told: Set[str]) -> Iterator[Finding]:
    """What the table of shapes and the other layers say."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for module, fit in {"": checkpoint.structure.shared, **checkpoint.structure.modules}.items():
        if fit.turned and module not in told:
            groups[fit.turned].append(module)
    for roles, modules in groups.items():
        fit = checkpoint.structure.modules[modules[0]] if modules[0] else checkpoint.structure.shared
        wanted = ", ".join(f"`{c.role}` {list(c.found)} should be {c.wanted}" for c in fit.clashes[:3])
        yield checkpoint.finding(
            f"{listed(roles)} {verb(len(roles), 'is', 'are')} exchanged or transposed in {counted(len(modules), 'module')} "
            f"({wanted}): {listed(m or checkpoint.method.peft_type for m in modules)}",
            key=next(found[roles[0]].name for found in checkpoint.by_module.values() if roles[0] in found),
            help="PEFT stops with a size mismatch: store the factors the way round that PEFT writes them",
            data=evidence("turned", modules, roles=list(roles)),
        )
