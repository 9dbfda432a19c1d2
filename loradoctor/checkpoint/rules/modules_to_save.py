"""LD614: modules saved whole, and their tensors."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.plain import HEADS, saved_whole
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD614", Severity.ERROR, "E1", "E3")
def modules_to_save(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A module of `modules_to_save` has no tensors in the file, or has them under an old name.

    On load PEFT wraps each of these modules and then needs its tensors: when one is missing it stops with a bare `KeyError`.
    Classification adapters have `classifier` and `score` on the list by themselves, because the head is new and must be saved
    with the adapter. Keys such as `lm_head.modules_to_save.default.weight` come from a raw state dict: PEFT looks for
    `lm_head.weight`.

    Save the adapter again with the head trained, rename the keys, or take the name off the list.
    """
    config = checkpoint.config
    if config is None or not checkpoint.tensors or checkpoint.foreign is not None:
        return
    # After `resize_token_embeddings` PEFT itself writes such a key beside the plain one that it loads.
    plain = {f"{k.module}.{k.suffix}" for k in checkpoint.keys if not k.role}
    old = [k for k in checkpoint.keys if k.role == "modules_to_save" and f"{k.module}.{k.suffix}" not in plain]
    if old:
        names = [k.name for k in old]
        yield checkpoint.finding(
            f"{counted(len(names), 'key')} {verb(len(names), 'holds', 'hold')} `modules_to_save`, which PEFT removes when it "
            f"saves: {listed(names)}",
            key=names[0],
            help=f"PEFT stops with a KeyError: rename the first to `base_model.model.{old[0].module}.{old[0].suffix}`, the others alike",
            data=evidence("old-name", names),
        )
        return
    yield from _missing(checkpoint, config)


def _owns_its_head(checkpoint: Checkpoint) -> bool:
    """Encoder-decoders call their head `classification_head`, which PEFT neither saves nor asks for."""
    return any(module.startswith(("model.encoder.", "model.decoder.")) for module in checkpoint.by_module)


def _missing(checkpoint: Checkpoint, config: AdapterConfig) -> Iterator[Finding]:
    automatic = HEADS.get(config.task_type or "", ())
    wanted = [n for n in dict.fromkeys(config.modules_to_save) if n not in automatic]
    whole = saved_whole(checkpoint, (*wanted, *automatic))
    if automatic and not checkpoint.method.prompt and not any(whole[n] for n in automatic):
        yield checkpoint.finding(
            f"the task is {config.task_type}, but the file has no tensors of a head ({listed(automatic)})",
            "modules_to_save",
            of="config",
            severity=Severity.WARNING if _owns_its_head(checkpoint) else Severity.ERROR,
            help="PEFT adds these modules on load and stops with a KeyError, or the head stays untrained: save the adapter "
            "together with its head",
            data=evidence("head-missing", automatic),
        )
    absent = [n for n in wanted if not whole[n]]
    if absent:
        # With others present the name may simply not exist in this base, which PEFT passes over.
        certain = len(absent) == len(wanted)
        yield checkpoint.finding(
            f"`modules_to_save` names {listed(absent)}, but the file has no tensors of {'it' if len(absent) == 1 else 'them'}",
            "modules_to_save",
            of="config",
            severity=Severity.ERROR if certain else Severity.WARNING,
            help="PEFT stops with a KeyError if the base model has such a module: save the adapter again, or take the name off the list",
            data=evidence("tensors-missing", absent),
        )
