"""Tensors too many: of other adapters, halves without their other half, weights of the base model."""

from __future__ import annotations

from loradoctor.checkpoint.key import Key
from loradoctor.checkpoint.methods.lora import halves as pair_of
from loradoctor.checkpoint.plain import is_embedding, is_resized_vocabulary, undeclared
from loradoctor.checkpoint.wording import listed
from loradoctor.repair.draft import Draft


def several_adapters(draft: Draft) -> None:
    """Keep one adapter of a file that holds several."""
    named = {k.name: k.adapter for k in draft.checkpoint.keys if k.adapter and "adapter-name" in k.problems}
    adapters = sorted(set(named.values()))
    wanted = draft.wishes.adapter
    if wanted is not None and wanted in adapters:
        draft.drop([n for n, a in named.items() if a != wanted], f"of another adapter than `{wanted}`")
    elif wanted is not None:
        draft.refuse(f"there is no adapter `{wanted}` in the file", f"one of its names: {listed(adapters)}" if adapters else "")
    elif len(adapters) > 1:
        draft.refuse(f"the file holds several adapters ({listed(adapters)})", "which of them is meant: `--adapter NAME`")


def orphans(draft: Draft) -> None:
    """Leave out modules with one half only, when told."""
    if draft.lora is None:
        return
    found: dict[str, list[str]] = {}
    for module, roles in draft.checkpoint.by_module.items():
        pair = pair_of(roles)
        if pair is not None and (pair[0] is None) != (pair[1] is None):
            found[module] = [key.name for key in roles.values()]
    if not found:
        return
    if not draft.wishes.drop_orphans:
        draft.refuse(
            f"{len(found)} {'module has' if len(found) == 1 else 'modules have'} one half of two: {listed(found)}",
            "the other half, from the trained model; `--drop-orphans` leaves these modules out",
        )
        return
    draft.drop([n for names in found.values() for n in names], "its other half is missing (`--drop-orphans`)")
    excluded = draft.config.get("exclude_modules")
    if isinstance(excluded, str) and excluded:
        draft.refuse("`exclude_modules` is a pattern, to which modules cannot be added", "a list of the same modules")
    else:
        draft.set("exclude_modules", sorted({*(excluded or ()), *found}), "these modules have no tensors any more")


def base_weights(draft: Draft) -> None:
    """Declare what was trained whole and is not declared; leave out other weights of the base when told."""
    checkpoint = draft.checkpoint
    if checkpoint.config is None or checkpoint.foreign is not None or not checkpoint.method.peft_type:
        return
    found = undeclared(checkpoint)
    stray = [*found.base, *(k for k in found.embeddings if k.role == "base_layer")]
    if stray and draft.wishes.drop_base_weights:
        draft.drop([k.name for k in stray], "a weight of the base model (`--drop-base-weights`)")
    elif stray:
        draft.refuse(
            f"{len(stray)} {'tensor' if len(stray) == 1 else 'tensors'} would overwrite the base model's own: {listed([k.name for k in stray])}",
            "whether they were trained: then `modules_to_save` must name them; `--drop-base-weights` leaves them out",
        )
    heads = [k for k in found.embeddings if k.role == ""]
    if heads and not is_resized_vocabulary(checkpoint, found.embeddings):
        names = [*checkpoint.config.modules_to_save, *(k.short for k in heads)]
        draft.set("modules_to_save", list(dict.fromkeys(names)), "these modules were saved whole")
    if found.biases:
        adapted = all(k.module in checkpoint.by_module and pair_of(checkpoint.by_module[k.module]) for k in found.biases)
        draft.set("bias", "lora_only" if adapted else "all", "the file holds biases of the base model")
    if draft.wishes.drop_base_weights:
        _saved_embeddings(draft)


def _saved_embeddings(draft: Draft) -> None:
    """The base's own embeddings, which PEFT saves beside an adapted one: they go when they are the base's, bit for bit or nearly."""
    saved = [k for k in draft.checkpoint.keys if k.role == "base_layer" and is_embedding(k)]
    if not saved:
        return
    evidence = draft.evidence
    if evidence is None or evidence.loads is None or not _weights_seen(draft):
        draft.refuse(
            "the embeddings of the base are saved with the adapter", "the base with its weights (`--base`): whether they are its own"
        )
        return
    own: list[Key] = [k for k in saved if k.name not in evidence.replaced]
    draft.drop([k.name for k in own], "the base model's own embedding (`--drop-base-weights`)")


def _weights_seen(draft: Draft) -> bool:
    evidence = draft.evidence
    return evidence is not None and any(c.name == "merge-equivalence" and c.status != "not-run" for c in evidence.checks)
