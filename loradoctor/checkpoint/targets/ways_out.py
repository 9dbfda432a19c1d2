"""Ways out that depend on the adapter: the alpha that scales the same without `use_rslora`, and the like."""

from __future__ import annotations

from loradoctor.checkpoint.targets.facts import Facts
from loradoctor.checkpoint.targets.target import MERGE


def without_rslora(facts: Facts) -> str:
    """The `lora_alpha` that gives the same scaling when it is divided by the rank; merging where no single one does."""
    alpha = facts.alpha_without_rslora
    if alpha is None:
        return f"modules differ in rank or alpha, so no single `lora_alpha` makes up for it: {MERGE}"
    return f"for this runtime, set `lora_alpha` to {alpha:.6g} (alpha x √r) and `use_rslora` to false: the scaling is the same"


def without_alpha_pattern(rank: str = "`r`") -> str:
    """How one alpha for all modules is made to do; ``rank`` is what the runtime divides it by."""
    return f"multiply `lora_B` of these modules by their scaling x {rank} / `lora_alpha` and drop the pattern, or {MERGE}"
