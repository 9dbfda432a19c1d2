"""The adapter as it lies there, also where PEFT would not find it: to begin with, a plan that keeps everything as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from loradoctor.checkpoint import weights
from loradoctor.checkpoint.archive import read_archive
from loradoctor.checkpoint.checkpoint import Checkpoint, read
from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.header import Header, read_header
from loradoctor.checkpoint.key import PREFIX
from loradoctor.checkpoint.layout import Place
from loradoctor.repair.plan import Origin, Plan, Refusal, TensorStep

_SHARD = re.compile(r"adapter_model-(\d+)-of-(\d+)\.(safetensors|bin)$")
_ADAPTER_PART = re.compile(r"(^|\.)(lora_|hada_|lokr_|ia3_|oft_|boft_|vera_|fourierft_|hra_|modules_to_save|trainable_tokens)")
_OTHER_NAMES = ("adapter.safetensors", "model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class Source:
    """What was read: the adapter with its tensors, the plan that copies it, and the files that the plan replaces.

    ``alone`` says that a file of another name than PEFT's was pointed at: what lies beside it need not belong to it.
    """

    checkpoint: Checkpoint
    plan: Plan
    replaced: tuple[Path, ...]
    alone: bool = False


def opened(place: Place) -> Source:
    """Read the adapter of ``place``. What cannot be read is a refusal in the plan; only a vanished directory raises OSError."""
    checkpoint = read(place.path, place.directory, place.weights)
    changes = [_of_config(fault) for fault in checkpoint.faults if fault.kind == "unreadable-config" and fault.data.get("cause") == "bom"]
    if checkpoint.config is not None and checkpoint.config.duplicates:
        twice = ", ".join(f"`{k}`" for k in checkpoint.config.duplicates)
        changes.append(f"{twice} stood in the config more than once; the last value is kept, as PEFT reads it")
    found = _weights(checkpoint)
    if found.header is not None:
        checkpoint = replace(checkpoint, weights=found.files[0], tensors=found.header.tensors, metadata=found.header.metadata)
    if checkpoint.repeated and found.header is None:
        twice = ", ".join(f"`{k}`" for k in checkpoint.repeated[:3])
        changes.append(f"{twice} stood in the header more than once; the entry that safetensors reads is kept")
    refusals = [*found.refusals]
    if checkpoint.config is None:
        refusals += [Refusal(f.message, f.help) for f in checkpoint.faults if f.kind in ("unreadable-config", "unreadable-file")]
    origins = found.origins or {n: Origin(found.files[0], info) for n, info in checkpoint.tensors.items()}
    metadata = {str(k): str(v) for k, v in checkpoint.metadata.items()}
    plan = Plan(
        origins=origins,
        tensors=tuple(TensorStep.of(name, name) for name in checkpoint.tensors),
        config=dict(checkpoint.config.raw) if checkpoint.config is not None else {},
        files=(*changes, *found.changes),
        refusals=tuple(dict.fromkeys(refusals)),
        metadata={**metadata, "format": "pt"},
    )
    alone = place.weights is not None and place.weights.name not in weights.NAMES
    return Source(checkpoint, plan, found.files, alone)


@dataclass(frozen=True, slots=True)
class _Found:
    """The weights: ``files`` they are in, a ``header`` when another than PEFT's reading was needed, ``changes`` for the report."""

    files: tuple[Path, ...]
    header: Header | None = None
    origins: Mapping[str, Origin] | None = None
    changes: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def _of_config(fault: Fault) -> str:
    return f"{fault.message}: it is written without"


def _weights(checkpoint: Checkpoint) -> _Found:
    path = checkpoint.weights
    faults = [f for f in checkpoint.faults if f.kind not in ("unreadable-config", "duplicate-config-key")]
    if path is not None and checkpoint.tensors:
        return _readable(checkpoint, path)
    causes = {str(f.data.get("cause")): f for f in faults}
    if path is not None and "nested-state-dict" in causes:
        return _again(path, lambda p: read_archive(p, unnest=True), f"the state dict stood under a key of `{path.name}`", faults)
    if path is not None and "wrong-format" in causes:
        other = read_archive if path.suffix == ".safetensors" else read_header
        return _again(path, other, f"`{path.name}` has the wrong name for its format", faults)
    if "sharded" in causes:
        return _joined(checkpoint.directory)
    if causes.keys() & {"other-name", "inside-a-model"}:
        return _misnamed(checkpoint.directory, faults)
    return _Found((path,) if path is not None else (), refusals=tuple(_refusal(f) for f in faults))


def _refusal(fault: Fault) -> Refusal:
    return Refusal(fault.message, fault.help)


def _readable(checkpoint: Checkpoint, path: Path) -> _Found:
    changes = [] if path.suffix == ".safetensors" else [f"`{path.name}` becomes `{weights.SAFETENSORS}`"]
    if path.name not in weights.NAMES and path.suffix == ".safetensors":
        changes.append(f"`{path.name}` becomes `{weights.SAFETENSORS}`")
    second = weights.second_file(checkpoint.directory, path)
    if second is None:
        return _Found((path,), changes=tuple(changes))
    reason = _disagrees(checkpoint, second)
    refusals = (
        (Refusal(f"`{second.name}` {reason}", f"which is meant: name it, as in `repair {checkpoint.shown(path.name)}`"),) if reason else ()
    )
    changes.append(f"`{second.name}` is left out: PEFT reads `{path.name}`, which holds the same")
    return _Found((path, second), changes=tuple(changes), refusals=refusals)


def _disagrees(checkpoint: Checkpoint, second: Path) -> str:
    """How the other weights file differs; empty when it holds the same."""
    from loradoctor.repair import arrays

    try:
        other = read_archive(second)
        if set(other.tensors) != set(checkpoint.tensors):
            return f"holds other tensors than `{weights.SAFETENSORS}`"
        for name, info in checkpoint.tensors.items():
            path = checkpoint.weights or second
            one, two = arrays.numbers(Origin(path, info)), arrays.numbers(Origin(second, other.tensors[name]))
            if one.dtype != two.dtype or one.shape != two.shape or one.tobytes() != two.tobytes():
                return f"holds another `{name}` than `{weights.SAFETENSORS}`"
    except ReadError:
        # PEFT never opens it beside a safetensors file, so neither is anything lost.
        return ""
    except (OSError, arrays.Inexact) as error:
        return f"cannot be compared with `{weights.SAFETENSORS}`: {error}"
    return ""


def _again(path: Path, reader: Callable[[Path], Header], change: str, faults: list[Fault]) -> _Found:
    try:
        header = reader(path)
    except (ReadError, OSError):
        return _Found((path,), refusals=tuple(_refusal(f) for f in faults))
    return _Found((path,), header, changes=(f"{change}: it becomes `{weights.SAFETENSORS}`",))


def _joined(directory: Path) -> _Found:
    """All shards as one; their numbers and the index say whether any is missing."""
    shards = sorted(p for p in directory.iterdir() if _SHARD.fullmatch(p.name))
    wanted = {int(m[2]) for p in shards if (m := _SHARD.fullmatch(p.name))}
    indices = [p for p in directory.iterdir() if p.name in ("adapter_model.safetensors.index.json", "adapter_model.bin.index.json")]
    if not shards or wanted != {len(shards)}:
        return _Found((), refusals=(Refusal(f"there are {len(shards)} shards of {sorted(wanted)}", "the missing shards"),))
    origins: dict[str, Origin] = {}
    for shard in shards:
        try:
            header = weights.read(shard)
        except ReadError as error:
            return _Found((), refusals=(_refusal(error.fault),))
        except OSError as error:
            return _Found((), refusals=(Refusal(f"`{shard.name}` cannot be read: {error.strerror or error}"),))
        if twice := sorted(set(header.tensors) & set(origins)):
            return _Found((), refusals=(Refusal(f"`{twice[0]}` is in more than one shard", "which one is right"),))
        origins.update({name: Origin(shard, info) for name, info in header.tensors.items()})
    lost = sorted({name for index in indices for name in _index(index)} - set(origins))
    if lost:
        return _Found((), refusals=(Refusal(f"the index names {len(lost)} tensors that no shard holds (`{lost[0]}`)", "the right shards"),))
    header = Header({name: origin.info for name, origin in sorted(origins.items())}, {})
    return _Found((*shards, *indices), header, origins, (f"{len(shards)} shards become one `{weights.SAFETENSORS}`",))


def _index(path: Path) -> tuple[str, ...]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ()
    mapped = found.get("weight_map") if isinstance(found, dict) else None
    return tuple(mapped) if isinstance(mapped, dict) else ()


def _misnamed(directory: Path, faults: list[Fault]) -> _Found:
    """The one file under another name whose tensors are an adapter's and nothing else's."""
    fitting: list[tuple[Path, Header]] = []
    for name in _OTHER_NAMES:
        path = directory / name
        if not path.is_file():
            continue
        try:
            header = weights.read(path)
        except (ReadError, OSError):
            continue
        if header.tensors and all(n.startswith(PREFIX) or _ADAPTER_PART.search(n) for n in header.tensors):
            fitting.append((path, header))
    if len(fitting) != 1:
        return _Found((), refusals=tuple(_refusal(f) for f in faults))
    path, header = fitting[0]
    return _Found((path,), header, changes=(f"`{path.name}` becomes `{weights.SAFETENSORS}`, the name that PEFT reads",))
