"""LD702: the adapter was never trained."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.effect import is_zero, modules
from loradoctor.checkpoint.wording import counted, evidence, listed
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
    vectors = [k.name for k in checkpoint.keys if k.role.startswith("ia3_")]
    if vectors and all(n in values and values[n].constant and values[n].rms == values[n].absmax == 1 for n in vectors):
        yield checkpoint.finding(
            f"{counted(len(vectors), 'IA3 vector')} {'is' if len(vectors) == 1 else 'are'} all ones: the adapter was never trained",
            key=vectors[0],
            help="everything is multiplied by 1 and the model answers exactly like its base",
            data=evidence("untrained", vectors),
        )
