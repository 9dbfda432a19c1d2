"""torchtune's own export to PEFT, held against the file of its own that it writes beside it.

The exporter (torchtune 0.6.1, `tune_to_peft_adapter_weights`) reorders the rows of q and k in `lora_b` for every architecture, also
for Qwen2, whose rows it had left in place on loading, and never reorders DoRA's magnitude. `adapter_model.pt` has the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loradoctor.checkpoint import weights
from loradoctor.checkpoint.checkpoint import Checkpoint, read
from loradoctor.checkpoint.convert import base_model, torchtune
from loradoctor.repair.plan import Origin, Plan, TensorStep


def misordered(checkpoint: Checkpoint, original: Path) -> tuple[str, ...]:
    """The tensors of the export whose values are not those that ``original``, torchtune's own file, means.

    Empty when the two cannot be compared. Raises OSError.
    """
    if checkpoint.weights is None or checkpoint.weights.name not in weights.NAMES:
        return ()
    own = read(checkpoint.path, checkpoint.directory, original)
    if own.foreign is None or own.foreign[0].name != "torchtune":
        return ()
    meant = torchtune.convert(own, {"": base_model.BaseModel(base_model.config(checkpoint.directory))})[""]
    # What cannot be converted exactly cannot be compared either.
    return () if meant.refusals else tuple(_different(checkpoint, meant, checkpoint.weights))


def _different(checkpoint: Checkpoint, meant: Plan, exported: Path) -> Iterator[str]:
    from loradoctor.repair import arrays

    for step in meant.tensors:
        info = checkpoint.tensors.get(step.target)
        # Only rows that are moved can be moved wrongly; one architecture's are not moved at all.
        if info is None or not step.target.endswith((".lora_B.weight", ".lora_magnitude_vector")):
            continue
        if ".q_proj." not in step.target and ".k_proj." not in step.target:
            continue
        copied = Plan({step.target: Origin(exported, info)}, (), {})
        if b"".join(arrays.pieces(meant, step)) != b"".join(arrays.pieces(copied, TensorStep.of(step.target, step.target))):
            yield step.target
