"""LD612: the tensors belong to a variant of LoRA that the config does not switch on, or the reverse."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.fitting import Fit
from loradoctor.checkpoint.methods.lora import halves
from loradoctor.checkpoint.methods.table import Switch
from loradoctor.checkpoint.wording import counted, evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_VARIANTS = (
    ("use_dora", "lora_magnitude_vector", "DoRA's magnitudes"),
    ("lora_bias", "lora_B.bias", "biases of `lora_B`"),
)
"""Config flag, the role that only this variant has, and how to call it."""


@rule("LD612", Severity.ERROR, "C3", "C4")
def flag_lost(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The tensors are those of DoRA or of `lora_bias`, and the config does not say so (or the reverse).

    Without `use_dora` PEFT silently drops the magnitudes and applies a plain LoRA, which is another model; without `lora_bias`
    it drops the biases. With the flag and without the tensors they stay at their initial value.

    Other methods have such settings too, `para` of DEFT or `psoft_mag_a` of PSOFT, and paths that a setting chooses, as `config_A_B` of
    GLoRA does: tensors of one setting under another are dropped, or stop the load.

    Set the flag as it was in training.
    """
    config = checkpoint.comparable
    if config is None:
        return
    yield from _switches(checkpoint, config)
    yield from _strange(checkpoint)
    if checkpoint.method.peft_type != "LORA":
        return
    pairs = [m for m, roles in checkpoint.by_module.items() if halves(roles) is not None and not any("embedding" in r for r in roles)]
    for flag, role, title in _VARIANTS:
        having = [m for m, roles in checkpoint.by_module.items() if role in roles]
        lacking = [m for m in pairs if role not in checkpoint.by_module[m]]
        if having and not config.flag(flag):
            yield checkpoint.finding(
                f"the file has {title} for {counted(len(having), 'module')}, but `{flag}` is not set: {listed(having)}",
                key=checkpoint.by_module[having[0]][role].name,
                help=f"PEFT drops them silently and the model differs from the trained one: set `{flag}` to true",
                data=evidence("flag-lost", having, flag=flag),
            )
        elif lacking and config.flag(flag):
            yield checkpoint.finding(
                f"`{flag}` is set, but {counted(len(lacking), 'module')} {'lacks' if len(lacking) == 1 else 'lack'} {title}: "
                f"{listed(lacking)}",
                flag,
                of="config",
                help=f"they stay at their initial value: set `{flag}` to false if the adapter was trained without, else save it again",
                data=evidence("tensors-lost", lacking, flag=flag),
            )


def _switches(checkpoint: Checkpoint, config: AdapterConfig) -> Iterator[Finding]:
    """The variants of all methods by their tables; DoRA and biases have their own words above."""
    told = {flag for flag, _, _ in _VARIANTS}
    off: dict[Switch, dict[str, str]] = defaultdict(dict)
    lost: dict[Switch, dict[str, str]] = defaultdict(dict)
    fits: dict[str, Fit] = {"": checkpoint.structure.shared, **checkpoint.structure.modules}
    for module, fit in fits.items():
        for found, switches in ((off, fit.off), (lost, fit.lost)):
            for role, switch in switches:
                if switch.field not in told:
                    found[switch].setdefault(module, role)
    for switch, modules in off.items():
        names = [m or checkpoint.method.peft_type for m in modules]
        yield checkpoint.finding(
            f"the file has {switch.title} ({listed(dict.fromkeys(modules.values()))}), which `{switch.field}` "
            f"{_value(config, switch)} rules out: {listed(names)}",
            switch.field,
            of="config",
            severity=Severity.INFO if switch.field in _SEEDED else Severity.ERROR,
            help="PEFT makes them again from the seed"
            if switch.field in _SEEDED
            else "PEFT drops them silently or stops: set the field as it was in training",
            data=evidence("flag-lost", names, flag=switch.field),
        )
    for switch, modules in lost.items():
        names = [m or checkpoint.method.peft_type for m in modules]
        yield checkpoint.finding(
            f"`{switch.field}` {_value(config, switch)} asks for {switch.title}, which {verb(len(names), 'is', 'are')} missing in "
            f"the file: {listed(names)}",
            switch.field,
            of="config",
            severity=Severity.WARNING if switch.field in _REMADE else Severity.ERROR,
            help="PEFT stops, or leaves them as they were initialised: set the field as it was in training, or save the adapter again",
            data=evidence("tensors-lost", names, flag=switch.field),
        )


def _strange(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Tensors that the method has not, or not with this config; what is missing in their place belongs to the same finding."""
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    for module, fit in {"": checkpoint.structure.shared, **checkpoint.structure.modules}.items():
        if fit.strange:
            groups[fit.strange, fit.missing].append(module)
    for (strange, missing), modules in groups.items():
        names = [m or checkpoint.method.peft_type for m in modules]
        instead = f" and not {listed(missing, 6)}" if missing else ""
        yield checkpoint.finding(
            f"the file has {listed(strange, 6)}{instead}, which is not what {checkpoint.method.peft_type} with this config has: "
            f"{listed(names)}",
            key=_first(checkpoint, strange[0]),
            help="PEFT drops them silently or stops: restore the config as it was in training, or load with the PEFT that wrote it",
            data=evidence("unknown-part", names, roles=list(strange), missing=list(missing)),
        )


def _first(checkpoint: Checkpoint, role: str) -> str:
    return next((roles[role].name for roles in checkpoint.by_module.values() if role in roles), next(iter(checkpoint.tensors)))


_REMADE = frozenset({"save_indices", "save_precomputed_indices"})
_SEEDED = _REMADE | {"save_projection"}
"""What these leave out PEFT makes again, the same from the same seed on the same base; it stops when a projection is promised and missing."""


def _value(config: AdapterConfig, switch: Switch) -> str:
    return json.dumps(config.get(switch.field, switch.default), default=str)[:40]
