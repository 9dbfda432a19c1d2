"""LD609: the halves of the low-rank factors are exchanged or transposed."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.lora import turned
from loradoctor.checkpoint.wording import counted, evidence, listed
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
    if config is None or config.get("target_parameters") or config.get("use_bdlora"):
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
