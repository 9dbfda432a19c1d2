"""The subject of `loradoctor check`: one adapter directory, read as far as it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loradoctor.checkpoint import adapter_config, neighbours, weights
from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.evidence import Evidence
from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.foreign import Format, recognise
from loradoctor.checkpoint.key import Key, parse
from loradoctor.checkpoint.methods import METHODS, UNKNOWN, Method, guess, method_of
from loradoctor.checkpoint.tensor import TensorInfo
from loradoctor.diagnostic import Finding, Location

if TYPE_CHECKING:
    from loradoctor.checkpoint.delta import Measured
    from loradoctor.checkpoint.kind import Kind
    from loradoctor.checkpoint.spectrum import Spectrum
    from loradoctor.checkpoint.structure import Structure
    from loradoctor.checkpoint.values import TensorStats

TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class Checkpoint:
    """An adapter checkpoint. Nothing here is executed or unpickled; values are read only when asked for.

    ``path`` is the directory as the user reached it, ``weights`` the file PEFT would choose, ``tensors`` what it holds,
    ``keys`` the same names taken apart, in the same order. ``faults`` are what went wrong while reading. ``evidence`` is what
    the torch side found out, None in the light tier. ``targets`` are the runtimes that it is meant for.
    """

    path: str
    directory: Path
    kind: str
    config: AdapterConfig | None
    weights: Path | None
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    evidence: Evidence | None = None
    targets: tuple[str, ...] = ()

    @cached_property
    def method(self) -> Method:
        """The PEFT method the config names; :data:`~loradoctor.checkpoint.methods.UNKNOWN` when there is none."""
        return method_of(self.config.peft_type) if self.config else UNKNOWN

    @cached_property
    def tensor_method(self) -> Method:
        """The method whose tensors these are: the config's if any tensor is its own, else the one the names point to."""
        parts = frozenset(part for name in self.tensors for part in name.split("."))
        adaptive = "lora_E" in parts
        if self.method is not UNKNOWN and any(self.method.owns(p) for p in parts) and adaptive <= (self.method.peft_type == "ADALORA"):
            return self.method
        found = guess(parts)
        if adaptive:
            return METHODS["ADALORA"]
        return found[0] if found else self.method

    @cached_property
    def foreign(self) -> tuple[Format, tuple[str, ...]] | None:
        """The other tool whose names most tensors have, with those names."""
        configured = self.config is not None
        return recognise(self.tensors, configured=configured) if self.method.peft_type in ("", "LORA", "ADALORA") else None

    @property
    def comparable(self) -> AdapterConfig | None:
        """The config, when the tensors are of the method that it names: then they can be held against each other."""
        fits = self.method is not UNKNOWN and self.tensor_method is self.method and self.foreign is None
        return self.config if fits and self.tensors else None

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """Every tensor name taken apart, wrapper prefixes removed."""
        hosted = self.config is not None and self.config.base is not None
        foreign = self.foreign is not None or bool(self.faults_of("foreign-format"))
        return parse(self.tensors, self.tensor_method, hosted=hosted, foreign=foreign)

    @cached_property
    def by_module(self) -> Mapping[str, Mapping[str, Key]]:
        """Module → role (with what follows it, except ``weight``: ``lora_B.bias``) → key, for keys that have a role."""
        modules: dict[str, dict[str, Key]] = {}
        for key in self.keys:
            if key.role:
                tail = key.suffix.removesuffix("weight").rstrip(".")
                # The adapters of several parameters of one module lie inside each other.
                inner = f".base_layer.{key.role}" in key.name and self.method.owns(key.role)
                place = modules.setdefault(f"{key.module}.base_layer" if inner else key.module, {})
                place[f"{key.role}.{tail}" if tail else key.role] = key
        return modules

    @cached_property
    def adapted(self) -> tuple[str, ...]:
        """The modules of the base model that have tensors of the method."""
        owned = self.method.owns
        return tuple(m for m, roles in self.by_module.items() if m not in ("", "base_model") and any(owned(role) for role in roles))

    @cached_property
    def structure(self) -> Structure:
        """How the tensors fit the table of their method."""
        from loradoctor.checkpoint.structure import structure

        return structure(self)

    @cached_property
    def _measured(self) -> tuple[Measured, str]:
        from loradoctor.checkpoint.delta import Measured, measure

        if self.weights is None:
            return Measured(), ""
        try:
            return measure(self), ""
        except OSError as error:
            return Measured(), f"`{self.weights.name}` could not be read to its end: {(error.strerror or str(error)).lower()}"

    def values(self) -> Mapping[str, TensorStats]:
        """Statistics per tensor, read on the first call; empty when that failed (see :attr:`values_failure`)."""
        return self._measured[0].stats

    def spectra(self) -> tuple[Spectrum, ...]:
        """The update of every module whose tensors give it alone, read together with :meth:`values`."""
        return self._measured[0].spectra

    @property
    def values_read(self) -> bool:
        """Whether anybody asked for the values yet."""
        return "_measured" in self.__dict__

    @property
    def values_failure(self) -> str:
        """Why the values could not be read, ``""`` when they could or nobody asked."""
        return self._measured[1] if self.values_read else ""

    @cached_property
    def what(self) -> Kind:
        """What the directory is and which tool wrote it."""
        from loradoctor.checkpoint.kind import kind_of

        return kind_of(self)

    def faults_of(self, kind: str) -> tuple[Fault, ...]:
        """The reading faults that the rule named ``kind`` reports."""
        return tuple(f for f in self.faults if f.kind == kind)

    def shown(self, name: str) -> str:
        """Path of one of its files, as reached from the argument."""
        if not name:
            return self.path
        return name if self.path == "." else f"{self.path.rstrip('/')}/{name}"

    @property
    def weights_path(self) -> str:
        """Where findings about tensors stand."""
        return self.shown(self.weights.name) if self.weights is not None else self.path

    @property
    def config_path(self) -> str:
        """Where findings about the config stand."""
        return self.shown(self.config.path.name) if self.config is not None else self.path

    def finding(self, message: str, key: str | None = None, *, of: str = "weights", **more: Any) -> Finding:
        """A finding placed at a tensor (``of="weights"``), a config key (``"config"``) or the directory (``"directory"``)."""
        if of == "config":
            span = self.config.span(key) if self.config is not None and key is not None else None
            location = Location(self.config_path, span=span, key=key)
        elif of == "weights":
            location = Location(self.weights_path, key=key)
        else:
            location = Location(self.path, key=key)
        return Finding(message, location, **more)

    def reported(self, kind: str) -> list[Finding]:
        """The findings of a rule that only hands on what reading found out."""
        return [
            Finding(fault.message, Location(self.shown(fault.file), key=fault.key), help=fault.help, data=dict(fault.data))
            for fault in self.faults_of(kind)
        ]

    def with_evidence(self, evidence: Evidence | None) -> Checkpoint:
        """The same checkpoint with what the torch side found; values already read are kept."""
        other = replace(self, evidence=evidence)
        for name in ("method", "tensor_method", "foreign", "keys", "by_module", "_measured"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    @cached_property
    def structurally_broken(self) -> str | None:
        """Why comparing merged with unmerged would prove nothing: PEFT would not load these tensors as they are."""
        from loradoctor.checkpoint.verdicts import structurally_broken

        return structurally_broken(self)

    @cached_property
    def effectless(self) -> str | None:
        """Why the adapter does nothing at all although it loads: for instance every ``lora_B`` is zero."""
        from loradoctor.checkpoint.verdicts import effectless

        return effectless(self)


def read(path: str, directory: Path, weights_file: Path | None = None) -> Checkpoint:
    """Read the adapter in ``directory`` (``path`` as printed); faults are collected, only a vanished directory raises OSError."""
    faults: list[Fault] = []
    config = None
    config_path = directory / adapter_config.NAME
    if config_path.exists():
        try:
            config = adapter_config.read(config_path)
            faults += config.faults
        except ReadError as error:
            faults.append(error.fault)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            faults.append(Fault("unreadable-file", f"`{config_path.name}` cannot be read: {reason}", file=config_path.name))
    else:
        faults.append(
            Fault(
                "unreadable-config",
                "there is no `adapter_config.json`",
                "PEFT stops with `Can't find 'adapter_config.json'`: save with `model.save_pretrained(...)`, which writes both files",
                data={"cause": "absent"},
            )
        )
    found = weights.find(directory, weights_file)
    if config is None and not config_path.exists() and _needs_no_config(found):
        faults.clear()
    kind = "trainer-checkpoint" if (directory / TRAINER_STATE).is_file() else "adapter"
    return Checkpoint(
        path=path,
        directory=directory,
        kind="foreign" if any(f.kind == "foreign-format" for f in found.faults) else kind,
        config=config,
        weights=found.path,
        tensors=found.tensors,
        metadata=found.metadata,
        repeated=found.repeated,
        faults=(*faults, *found.faults),
    )


def _needs_no_config(found: weights.Weights) -> bool:
    """Whether another tool's file lies here, or none at all: that is the finding, not that PEFT's config is missing as well."""
    causes = {f.data.get("cause") for f in found.faults}
    if any(f.kind == "foreign-format" for f in found.faults) or causes & {"partitioned", "inside-a-model", "several"}:
        return True
    other = found.path is not None and neighbours.is_other_tools(found.path.name)
    return other or recognise(found.tensors, configured=False) is not None
