"""LD702: the adapter was never trained."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.effect import is_zero, modules
from loradoctor.checkpoint.methods.tables import table_of
from loradoctor.checkpoint.values import TensorStats
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD702", Severity.ERROR, "T2")
def untrained(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The adapter is as it was initialised: it does nothing.

    `lora_B` starts at zero (for embeddings `lora_embedding_A`, for AdaLoRA `lora_E`) so that training starts from the base
    model. When all of it still is zero, no optimizer step ever reached it: `trainer.train()` was not called, another model was
    trained, the parameters were frozen, or they were not in the optimizer. The model answers exactly like its base.

    Find out why in the training script: `loradoctor lint` knows the usual reasons.
    """
    values = checkpoint.values()
    found = [m for m in modules(checkpoint) if m.fresh is not None]
    if found and all(is_zero(values, m.fresh) for m in found):
        roles = list(dict.fromkeys(m.fresh.role for m in found if m.fresh is not None))
        names = [m.fresh.name for m in found if m.fresh is not None]
        yield checkpoint.finding(
            f"{listed(roles)} is zero in {'the one module' if len(found) == 1 else f'all {len(found)} modules'}: the adapter "
            "was never trained",
            key=names[0],
            help="the model answers exactly like its base: train it, or look for what kept the training from reaching these parameters",
            data=evidence("untrained", names),
        )
        return
    yield from _identity(checkpoint)


def _identity(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Methods that start with a value at which they change nothing: no angle, a factor of one."""
    still = table_of(checkpoint.tensor_method.peft_type).identity
    values = checkpoint.values()
    starts = {
        key.name: still[role]
        for roles in checkpoint.by_module.values()
        for full, key in roles.items()
        for role in (full, full.partition(".")[0])
        if role in still and (role == full or full.partition(".")[2].isdigit())
    }
    if starts and all(name in values and _is_all(values[name], value) for name, value in starts.items()):
        names = list(starts)
        told = " and ".join("all ones" if value else "all zeros" for value in sorted(set(starts.values())))
        yield checkpoint.finding(
            f"{counted(len(names), f'{checkpoint.tensor_method.peft_type} tensor')} {verb(len(names), 'is', 'are')} {told}: the adapter "
            "was never trained",
            key=names[0],
            help="this is where training starts: the model answers exactly like its base",
            data=evidence("untrained", names),
        )


def _is_all(stats: TensorStats, value: float) -> bool:
    return stats.is_zero if value == 0 else stats.count > 0 and stats.rms == stats.absmax == value and (stats.constant or stats.count == 1)
