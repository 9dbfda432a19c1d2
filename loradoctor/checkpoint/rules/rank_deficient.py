"""LD708: a module uses fewer directions than its rank has."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.lora import halves
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_MARGIN = 4
"""Rows looked at per unit of rank; the rest is read only when these are dependent."""


@rule("LD708", Severity.INFO, "T6")
def rank_deficient(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The columns of `lora_B` are linearly dependent: part of the rank is unused.

    The update then has a lower rank than the config pays for. It comes from a converter that padded a smaller adapter, from
    merging adapters of lower rank, or from a training in which most directions never moved.

    Nothing has to be done; a smaller `r` would hold the same update.
    """
    config = checkpoint.comparable
    if config is None or checkpoint.method.peft_type != "LORA" or checkpoint.weights is None:
        return
    values = checkpoint.values()
    factors: dict[str, str] = {}
    for module, roles in checkpoint.by_module.items():
        b = (halves(roles) or (None, None))[1]
        if b is not None and b.name in values and values[b.name].is_finite and not values[b.name].is_zero:
            info = checkpoint.tensors[b.name]
            if len(info.shape) == 2 and info.strides is None and 1 < info.shape[1] < info.shape[0]:
                factors[b.name] = module
    if not factors:
        return
    from loradoctor.checkpoint.values import dependent

    ranks = dependent(checkpoint.weights, {name: checkpoint.tensors[name] for name in factors}, _MARGIN)
    deficient = {factors[name]: (rank, checkpoint.tensors[name].shape[1]) for name, rank in ranks.items()}
    if deficient:
        names = list(deficient)
        rank, full = deficient[names[0]]
        yield checkpoint.finding(
            f"{counted(len(names), 'module')} {verb(len(names), 'uses', 'use')} fewer directions than the rank has ({rank} of {full} in "
            f"the first): {listed(names)}",
            key=names[0],
            help="a smaller `r` would hold the same update",
            data=evidence("rank-deficient", names, used=rank, rank=full),
        )
