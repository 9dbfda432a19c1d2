"""LD604: module paths that would fit with another prefix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loradoctor.checkpoint.fit import Misfit, data, diagnose, other_loader, shown
from loradoctor.checkpoint.key import PREFIX
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD604", Severity.ERROR, "K4")
def prefix_missing(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The keys carry another path prefix than the base model's modules.

    PEFT looks for `base_model.model.` followed by the path of the module in the model it is given. An adapter trained on the
    backbone
    (`AutoModel`, paths start at `layers.`) and loaded onto the model with a head (paths start at `model.layers.`), trained on a
    vision-language model and loaded onto its text model, or written by hand without `base_model.model.` has no key that matches.
    Loading succeeds with a warning, and the model answers exactly like the base model.

    Load the adapter onto the class it was trained on, or rename the keys: the finding names the components to add or to remove.
    """
    bare = tuple(key.name for key in checkpoint.keys if "no-prefix" in key.problems)
    taken = f"; {way}" if (way := other_loader(checkpoint)) else ""
    if bare and len(bare) == len([key for key in checkpoint.keys if key.role]):
        yield checkpoint.finding(
            f"{len(bare)} tensors lack the `{PREFIX}` that PEFT puts before every module path: {shown(bare)}",
            key=bare[0],
            help="PEFT loads none of them and the model answers like the base model: "
            f"save with `save_pretrained`, or add `{PREFIX}` to every key{taken}",
            data={"cause": "no-prefix", "count": len(bare), "examples": list(bare[:3]), "added": PREFIX, "removed": ""},
        )
        return
    misfit = diagnose(checkpoint)
    if misfit is not None and misfit.kind == "prefix":
        yield checkpoint.finding(_message(checkpoint, misfit), key=misfit.keys[0], help=_help(checkpoint, misfit), data=data(misfit))


def _message(checkpoint: Checkpoint, misfit: Misfit) -> str:
    added, removed = misfit.detail["added"], misfit.detail["removed"]
    change = f"with `{added}` added" if added else f"without `{removed}`"
    if added and removed:
        change = f"with `{added}` in place of `{removed}`"
    loads = checkpoint.evidence.loads if checkpoint.evidence else None
    base = loads.class_name if loads else "the base model"
    count = f"{len(misfit.keys)} of {misfit.detail['tensors']}" if "tensors" in misfit.detail else str(len(misfit.keys))
    things = "tensors" if loads is None or loads.expected else "modules"
    return f"the module paths of {count} {things} would fit `{base}` {change}: {shown(misfit.keys)}"


def _help(checkpoint: Checkpoint, misfit: Misfit) -> str:
    added, removed = str(misfit.detail["added"]), str(misfit.detail["removed"])
    old, new = misfit.detail["old"], misfit.detail["new"]
    targets = checkpoint.config.get("target_modules") if checkpoint.config is not None else None
    loads = checkpoint.evidence.loads if checkpoint.evidence is not None else None
    if isinstance(targets, str) and loads is not None and loads.error_type:
        here, there = str(new).removeprefix(PREFIX), str(old).removeprefix(PREFIX)
        return f"PEFT raises, because the pattern in `target_modules` matches nothing: write it for `{here}` in place of `{there}`"
    consequence = "PEFT loads none of them, warns at most, and the model answers like the base model"
    taken = f"; {way}" if (way := other_loader(checkpoint)) else ""
    if "tensors" in misfit.detail:
        rest = "the other tensors are of parts that this model does not have"
        return f"{consequence}; {rest}: it was trained on a model around this one. Load it there, or remove `{removed}` from the keys"
    if added and not removed and PREFIX.startswith(str(old)):
        return f"{consequence}: the adapter was trained on the backbone. Load it onto `AutoModel`, or add `{added}` to the keys{taken}"
    if removed and not added:
        return f"{consequence}: it was trained on a model around this one. Load it there, or remove `{removed}` from the keys{taken}"
    return f"{consequence}. Load it onto the class it was trained on, or replace `{old}` by `{new}` in the keys{taken}"
