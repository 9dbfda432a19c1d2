"""LD606: tensors that the adapter needs are not in the file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.fit import missing_on_base
from loradoctor.checkpoint.grid import Hole, holes, missing_experts, without_first_layer
from loradoctor.checkpoint.methods import UNKNOWN
from loradoctor.checkpoint.methods.fitting import partner
from loradoctor.checkpoint.methods.lora import halves
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD606", Severity.ERROR, "K7", "K9", "K12")
def missing_tensors(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Tensors that the adapter needs are not in the file.

    PEFT loads what is there and leaves the rest at its initial value: `from_pretrained` warns about it since 0.14,
    `load_adapter` never does, and with `low_cpu_mem_usage` the missing ones hold whatever the memory held before. A file cut
    into shards and joined incompletely, a layer range shifted by one, and a second adapter whose name is a path component (an
    adapter called `0` makes PEFT drop layer 0 of all others when it saves) are known reasons.

    Save the adapter again; what is missing cannot be recovered from the file.
    """
    config = checkpoint.config
    if config is None or not checkpoint.tensors or checkpoint.foreign is not None or checkpoint.method is UNKNOWN:
        return
    if not any(k.role and checkpoint.method.owns(k.role) for k in checkpoint.keys):
        yield from _nothing_of_the_method(checkpoint, config)
    elif checkpoint.evidence is not None and checkpoint.evidence.loads is not None:
        yield from missing_on_base(checkpoint)
    elif checkpoint.comparable is not None:
        if checkpoint.method.peft_type == "ADALORA":
            yield from _without_e(checkpoint)
        yield from _incomplete(checkpoint)
        yield from _grid(checkpoint, config)
        yield from _experts(checkpoint)


def _nothing_of_the_method(checkpoint: Checkpoint, config: AdapterConfig) -> Iterator[Finding]:
    if checkpoint.tensor_method is not checkpoint.method or not (config.get("target_modules") or checkpoint.method.prompt):
        return  # LD521 says whose tensors they are; without targets the adapter consists of whole modules
    wanted = "`prompt_embeddings`" if checkpoint.method.prompt else listed(f"{p}…" for p in checkpoint.method.prefixes)
    names = list(checkpoint.tensors)
    yield checkpoint.finding(
        f"the file has no tensor of {checkpoint.method.peft_type} ({wanted}), only {listed(names)}",
        key=names[0],
        help="PEFT loads nothing of the adapter or stops with a KeyError: save it again with `save_pretrained`",
        data=evidence("method-absent", names),
    )


def _without_e(checkpoint: Checkpoint) -> Iterator[Finding]:
    modules = [m for m, roles in checkpoint.by_module.items() if halves(roles) is not None and "lora_E" not in roles]
    if modules:
        yield checkpoint.finding(
            f"{counted(len(modules), 'module')} {verb(len(modules), 'lacks', 'lack')} `lora_E`, AdaLoRA's singular values: "
            f"{listed(modules)}",
            key=next(iter(checkpoint.by_module[modules[0]].values())).name,
            help="it stays at its initial zero, so these modules do nothing: save the adapter again",
            data=evidence("lora-E", modules),
        )


def _incomplete(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Parts that a module or the model as a whole needs; of a pair whose other half is there `orphan-half` tells."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for module, fit in checkpoint.structure.modules.items():
        there = checkpoint.by_module[module]
        if fit.strange or checkpoint.method.low_rank:
            continue  # LD612: the tensors are those of another variant; LD607
        if lost := tuple(role for role in fit.missing if partner(role) not in there):
            groups[lost].append(module)
    for roles, modules in groups.items():
        yield checkpoint.finding(
            f"{counted(len(modules), 'module')} {verb(len(modules), 'lacks', 'lack')} {listed(roles, 6)}: {listed(modules)}",
            key=next(iter(checkpoint.by_module[modules[0]].values())).name,
            help=f"what {checkpoint.method.peft_type} lacks stays as it was initialised, and the model differs from the trained one: "
            "save the adapter again",
            data=evidence("part", modules, roles=list(roles)),
        )
    yield from _biases(checkpoint)
    for role, lacking in checkpoint.structure.gaps.items():
        yield checkpoint.finding(
            f"{counted(len(lacking), 'module')} {verb(len(lacking), 'lacks', 'lack')} `{role}`, which the same module of other layers "
            f"has: {listed(lacking)}",
            key=next(iter(checkpoint.by_module[lacking[0]].values())).name,
            help="it stays as it is in the base, and the model differs from the trained one: save the adapter again",
            data=evidence("gap", lacking, roles=[role]),
        )
    whole = checkpoint.structure.shared.missing
    if whole:
        yield checkpoint.finding(
            f"the file lacks {listed(whole, 6)}, which all modules of {checkpoint.method.peft_type} share",
            key=next(iter(checkpoint.tensors)),
            help="PEFT stops with an error or starts from a random one: save the adapter again",
            data=evidence("shared-part", whole),
        )


def _biases(checkpoint: Checkpoint) -> Iterator[Finding]:
    """With `bias` "all" every bias of the base is in the file; one that most layers have and one has not was lost."""
    if checkpoint.config is None or checkpoint.config.get("bias") != "all":
        return
    lost = [f"{m}.bias" for hole in holes(k.module for k in checkpoint.keys if not k.role and k.suffix == "bias") for m in hole.modules]
    if lost:
        yield checkpoint.finding(
            f'`bias` is "all", but the file lacks {listed(lost)}, which other layers have',
            key=next(k.name for k in checkpoint.keys if not k.role and k.suffix == "bias"),
            help="the base model's own bias stays, and the model differs from the trained one: save the adapter again",
            data=evidence("bias", lost),
        )


def _experts(checkpoint: Checkpoint) -> Iterator[Finding]:
    modules = checkpoint.adapted
    told = {m for hole in holes(modules) for m in hole.modules}
    lost = [m for m in missing_experts(modules) if m not in told]
    if lost:
        yield checkpoint.finding(
            f"{counted(len(lost), 'module')} of experts {verb(len(lost), 'is', 'are')} missing between others of the same layer: "
            f"{listed(lost)}",
            key=lost[0],
            help="PEFT leaves them without effect, or stops where it fuses the experts of a layer: save the adapter again",
            data=evidence("experts", lost),
        )


def _grid(checkpoint: Checkpoint, config: AdapterConfig) -> Iterator[Finding]:
    if config.get("layers_to_transform") not in (None, []) or config.get("layer_replication") or config.get("exclude_modules"):
        return
    if not isinstance(config.get("target_modules"), list):
        return  # a pattern may well mean what the grid takes for a hole
    modules = checkpoint.adapted
    if without_first_layer(modules):
        return  # LD610
    groups: dict[tuple[str, tuple[int, ...]], list[Hole]] = defaultdict(list)
    for hole in holes(modules):
        if not set(hole.modules) & set(config.get("target_modules")):
            groups[hole.stack, hole.missing].append(hole)
    for (stack, missing), found in groups.items():
        names = [m for hole in found for m in hole.modules]
        layers = (
            f"layer {missing[0]}" if len(missing) == 1 else f"layers {', '.join(map(str, missing[:6]))}{' …' if len(missing) > 6 else ''}"
        )
        what = listed(dict.fromkeys(h.template.rpartition(".")[2] for h in found))
        collision = " A second adapter called `0` makes PEFT drop it when saving" if missing == (0,) else ""
        yield checkpoint.finding(
            f"{what} {verb(len(found), 'is', 'are')} missing in {layers} of `{stack.rstrip('.')}` and there in {found[0].present} others",
            key=names[0],
            help=f"PEFT leaves {verb(len(names), 'it', 'them')} without effect and `load_adapter` says nothing: save the "
            f"adapter again.{collision}",
            data=evidence("hole", names, layers=list(missing)),
        )
