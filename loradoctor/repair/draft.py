"""A plan while it is being made: steps change it one after the other and see the adapter as the earlier ones left it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.evidence import Evidence
from loradoctor.checkpoint.tensor import TensorInfo
from loradoctor.repair import arrays
from loradoctor.repair.plan import ABSENT, ConfigStep, Drop, Plan, Refusal, TensorStep, Transform
from loradoctor.repair.wishes import Wishes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass
class Draft:
    """The adapter as it will be so far, and how that comes about.

    ``start`` is the plan to begin with (every tensor under its own name, or a conversion from a foreign format), ``read`` the
    adapter as it was read, ``evidence`` what PEFT made of the draft on the base model, None before it was asked.
    """

    start: Plan
    read: Checkpoint
    wishes: Wishes
    evidence: Evidence | None = None
    steps: dict[str, TensorStep] = field(init=False)
    config: dict[str, Any] = field(init=False)
    config_steps: dict[str, ConfigStep] = field(init=False)
    drops: list[Drop] = field(init=False)
    notes: list[str] = field(init=False)
    refusals: list[Refusal] = field(init=False)
    _seen: Checkpoint | None = None

    def __post_init__(self) -> None:
        self.steps = {step.target: step for step in self.start.tensors}
        self.config = copy.deepcopy(dict(self.start.config))
        self.config_steps = {step.field: step for step in self.start.config_steps}
        self.drops = list(self.start.drops)
        self.notes = list(self.start.notes)
        self.refusals = list(self.start.refusals)

    @property
    def checkpoint(self) -> Checkpoint:
        """The adapter as the steps so far would write it; its tensors have no bytes yet."""
        if self._seen is None:
            text = json.dumps(self.config)
            config = AdapterConfig(self.read.directory / CONFIG, self.config, text)
            weights = self.read.directory / WEIGHTS
            self._seen = replace(
                self.read, kind="adapter", config=config, weights=weights, tensors=self._infos(), repeated=(), faults=(),
                evidence=self.evidence,
            )  # fmt: skip
        return self._seen

    @property
    def lora(self) -> AdapterConfig | None:
        """The config, when it is LoRA's or AdaLoRA's and the tensors are too."""
        seen = self.checkpoint
        return seen.comparable if seen.method.peft_type in ("LORA", "ADALORA") else None

    def _infos(self) -> dict[str, TensorInfo]:
        return {name: arrays.result_of(self.start, step) for name, step in self.steps.items()}

    def rename(self, names: Mapping[str, str], why: str) -> None:
        """Give tensors other names. Two that would share one are one if their bytes agree, else a refusal."""
        leaving = {old for old, new in names.items() if new != old}
        if not leaving:
            return
        kept = {name: step for name, step in self.steps.items() if name not in leaving}
        for old in (name for name in self.steps if name in leaving):
            step, new = self.steps[old], names[old]
            if new not in kept:
                kept[new] = replace(step, target=new, why=_joined(step.why, why))
            elif self._same(step, kept[new]):
                self.drops.append(Drop(old, f"the same tensor stands under `{new}` too"))
            else:
                self.refusals.append(
                    Refusal(f"`{old}` and another tensor would both be called `{new}`, and they differ", "which of the two was trained")
                )
        self._set(kept)

    def transform(self, names: Iterable[str], make: Callable[[str], tuple[Transform, ...]], why: str) -> None:
        """Append transforms to the steps of some tensors."""
        changed = dict(self.steps)
        for name in names:
            step = changed[name]
            changed[name] = replace(step, transforms=(*step.transforms, *make(name)), why=_joined(step.why, why))
        self._set(changed)

    def replace_step(self, step: TensorStep, why: str) -> None:
        """Make a tensor in another way."""
        self._set({**self.steps, step.target: replace(step, why=_joined(step.why, why))})

    def drop(self, names: Iterable[str], why: str) -> None:
        """Leave tensors behind."""
        gone = list(names)
        self.drops += [Drop(name, why) for name in gone]
        self._set({name: step for name, step in self.steps.items() if name not in set(gone)})

    def set(self, key: str, value: object, why: str) -> None:
        """Give a config field a value; :data:`ABSENT` removes it. Setting what is already there does nothing."""
        old = self.config.get(key, ABSENT)
        if old is value or (old == value and type(old) is type(value)):
            return
        before = self.config_steps.get(key)
        self.config_steps[key] = ConfigStep(key, before.old if before else old, value, _joined(before.why if before else "", why))
        if value is ABSENT:
            self.config.pop(key, None)
        else:
            self.config[key] = value
        self._seen = None

    def refuse(self, what: str, evidence: str = "") -> None:
        """Say what cannot be repaired without guessing and what would decide it."""
        refusal = Refusal(what, evidence)
        if refusal not in self.refusals:
            self.refusals.append(refusal)

    def note(self, text: str) -> None:
        """Say something that changes nothing."""
        if text not in self.notes:
            self.notes.append(text)

    def forget(self) -> None:
        """Go on as if PEFT had not been asked."""
        self.evidence, self._seen = None, None

    def plan(self) -> Plan:
        """The finished plan."""
        return replace(
            self.start, tensors=tuple(self.steps.values()), config=self.config, config_steps=tuple(self.config_steps.values()),
            drops=tuple(self.drops), notes=tuple(self.notes), refusals=tuple(self.refusals),
        )  # fmt: skip

    def _set(self, steps: dict[str, TensorStep]) -> None:
        self.steps = steps
        self._seen = None

    def _same(self, one: TensorStep, other: TensorStep) -> bool:
        try:
            return b"".join(arrays.pieces(self.start, one)) == b"".join(arrays.pieces(self.start, other))
        except (OSError, arrays.Inexact):
            return False


def _joined(first: str, second: str) -> str:
    return f"{first}; {second}" if first and second and second not in first else first or second
