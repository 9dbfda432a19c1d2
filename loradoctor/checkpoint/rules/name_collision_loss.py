"""LD610: everything below one name is missing, as when another adapter is called like it."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.fit import data, diagnose, shown
from loradoctor.checkpoint.grid import without_first_layer
from loradoctor.checkpoint.wording import counted, evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD610", Severity.ERROR, "K13")
def name_collision_loss(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Everything below one path component is missing: saving dropped it because another adapter has that name.

    When several adapters are loaded, `save_pretrained` leaves out every key that holds the name of another one between dots. With
    an adapter called `0` that is the whole first layer of all others, with one called `mlp` every feed-forward module. Nothing is
    said when saving, and on load the missing modules stay without effect.

    The tensors are not in the file any more: save again from the running model after renaming the other adapter.
    """
    if checkpoint.evidence is not None and checkpoint.evidence.loads is not None:
        yield from _on_base(checkpoint)
    else:
        yield from _by_grid(checkpoint)


def _on_base(checkpoint: Checkpoint) -> Iterator[Finding]:
    misfit = diagnose(checkpoint)
    if misfit is not None and misfit.kind == "collision":
        name = misfit.detail["component"]
        yield checkpoint.finding(
            f"all {len(misfit.keys)} tensors below `{name}` are missing, and no others: {shown(misfit.keys)}",
            key=misfit.keys[0],
            help=f"an adapter called `{name}` beside this one makes PEFT drop them when it saves; they stay without effect: save "
            "again with the other adapter renamed",
            data=data(misfit),
        )


def _by_grid(checkpoint: Checkpoint) -> Iterator[Finding]:
    config = checkpoint.comparable
    if config is None or config.get("layers_to_transform") not in (None, []) or not isinstance(config.get("target_modules"), list):
        return
    modules = checkpoint.adapted
    lost = without_first_layer(modules)
    if lost and not set(lost) & set(config.get("target_modules")):
        yield checkpoint.finding(
            f"layer 0 is missing as a whole while all later ones are there: {counted(len(lost), 'module')}, {listed(lost)}",
            key=lost[0],
            help="an adapter called `0` beside this one makes PEFT drop the layer when it saves (or the layer numbers are shifted by "
            "one); it stays without effect: save again with the other adapter renamed",
            data=evidence("collision", lost, component="0"),
        )
