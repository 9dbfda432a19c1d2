"""LD608: tensors that would replace parameters of the base model."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods import UNKNOWN
from loradoctor.checkpoint.plain import is_resized_vocabulary, undeclared
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD608", Severity.ERROR, "K10", "E2", "E8")
def overwrites_base(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The file holds tensors of the base model that nothing in the config asks for.

    PEFT loads every key that fits a parameter of the model, whether or not it belongs to an adapter: a norm, a whole projection,
    an output head is silently replaced. `disable_adapter()` then no longer gives the base model, and other adapters on the same
    base change too. Whoever can put a tensor into the file can put anything into the model.

    Remove the tensors, or declare them in `modules_to_save` (biases in `bias`) when they were trained.
    """
    if checkpoint.foreign is not None or checkpoint.method is UNKNOWN:
        return
    found = undeclared(checkpoint)
    shadowed = [k.name for k in found.base]
    if shadowed:
        yield checkpoint.finding(
            f"{counted(len(shadowed), 'tensor')} would overwrite the base model's own: {listed(shadowed)}",
            key=shadowed[0],
            help="the base model is changed even with the adapter disabled: remove them, or list the modules in "
            "`modules_to_save` if they were trained",
            data=evidence("base-key", shadowed),
        )
    replaced = [n for n in (checkpoint.evidence.replaced if checkpoint.evidence is not None else ()) if n not in shadowed]
    if replaced:
        yield checkpoint.finding(
            f"the base weights saved with the adapted embeddings are not those of this base: {listed(replaced)}",
            key=replaced[0],
            help="the adapter was trained on another base; loading puts that one's embeddings into this model: use the base it was "
            "trained on",
            data=evidence("other-base", replaced),
        )
    embeddings = [k.name for k in found.embeddings]
    if embeddings and not is_resized_vocabulary(checkpoint, found.embeddings):
        modules = list(dict.fromkeys(k.short for k in found.embeddings))
        yield checkpoint.finding(
            f"{listed(embeddings)} {verb(len(embeddings), 'is', 'are')} in the file, but `modules_to_save` does not name {listed(modules)}",
            key=embeddings[0],
            severity=Severity.WARNING,
            help="the base model's own tensor is replaced, even with the adapter disabled: declare the module, or remove the tensor",
            data=evidence("flag-lost", embeddings),
        )
    biases = [k.name for k in found.biases]
    if biases:
        yield checkpoint.finding(
            f"{counted(len(biases), 'bias', 'biases')} of the base model {verb(len(biases), 'is', 'are')} in the file, but "
            f"`bias` is none: {listed(biases)}",
            key=biases[0],
            severity=Severity.WARNING,
            help="the base model's biases are replaced, even with the adapter disabled: set `bias` as in training, or remove them",
            data=evidence("bias-flag-lost", biases),
        )
