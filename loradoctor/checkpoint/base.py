"""The base model of an adapter: find it, have the torch side examine the two together, and put what it says into evidence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loradoctor.checkpoint.base_lookup import find
from loradoctor.checkpoint.evidence import LOADERS, Evidence, Loader, LoadOutcome, ModuleMerge, ShapeMismatch
from loradoctor.checkpoint.layout import TargetError
from loradoctor.checkpoint.plain import is_embedding
from loradoctor.diagnostic import Check, Severity
from loradoctor.merge import audit as audits
from loradoctor.merge.summary import NAME as MERGE
from loradoctor.merge.summary import summarise
from loradoctor.oracle.client import BadInterpreter, BaseUnavailable, TorchSideMissing, ask

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint
    from loradoctor.checkpoint.run import CheckOptions

LOADS = "loads"
FORWARD = "forward"
LOADER = LOADERS[0]
_HEADS = re.compile(
    r"(?:^|\.)(?:score|classifier|(?:classifier|classification_head)\.out_proj)"
    r"(?:\.modules_to_save(?:\.\w+)?)?\.weight$"
)
_MATRIX = 2
_ENOUGH = 1000
"""Adapted modules that decide which class the base is built as."""


def examine(checkpoint: Checkpoint, options: CheckOptions) -> Evidence:
    """What the torch side finds out about ``checkpoint`` on its base model.

    Raises :class:`TargetError` when the user insists on a base or an interpreter that cannot be had, and
    :class:`~loradoctor.oracle.client.TorchSideFailed` when the child process did not answer.
    """
    insisted = options.base != "auto" or bool(options.merged)
    found, reason = find(checkpoint, options)
    named = _named(checkpoint)
    obstacle = reason or _unloadable(checkpoint)
    if reason and options.merged:
        raise TargetError(f"`--merged` needs the base model: {reason}")
    if obstacle:
        return Evidence(base=found, checks=_not_run(checkpoint, options, obstacle), named=named)
    wanted = options.merge and not _vacuous(checkpoint)
    request = {
        # The child keeps the directory it was started in, whatever this process does later.
        "adapter": str(checkpoint.directory.absolute()),
        "base": found,
        "online": options.online,
        "merge": wanted,
        "device": options.device,
        "merged": str(Path(options.merged).absolute()) if options.merged else None,
        "forward": options.forward,
        "num_labels": labels(checkpoint),
        "modules": list(dict.fromkeys(k.module for k in checkpoint.keys if k.role and k.module))[:_ENOUGH],
    }
    try:
        answer = ask(request, python=options.python or options.settings.python, timeout=options.timeout)
    except BadInterpreter as error:
        raise TargetError(str(error)) from error
    except BaseUnavailable as error:
        if insisted:
            raise TargetError(f"the base `{found}` cannot be had: {error}") from error
        return Evidence(checks=_not_run(checkpoint, options, f"the base `{found}` cannot be had: {error}"), named=named)
    except TorchSideMissing as error:
        if insisted:
            asked = "--merged" if options.merged else f"--base {options.base}"
            raise TargetError(f"`{asked}` needs the torch side, but {error}") from error
        return Evidence(base=found, checks=_not_run(checkpoint, options, str(error)), named=named)
    if "device_error" in answer:
        raise TargetError(f"`--device {options.device}`: {answer['device_error']}")
    if options.merged and answer.get("audit", {}).get("base_missing"):
        raise TargetError(f"`--merged` needs the weights of the base: {answer['audit']['reason']}")
    return evidence(checkpoint, options, str(answer.get("base", found)), answer, named)


def _unloadable(checkpoint: Checkpoint) -> str:
    """Why there is nothing that PEFT could be asked to load."""
    if checkpoint.config is None:
        return "there is no config that PEFT could read"
    if checkpoint.weights is None or not checkpoint.tensors:
        return "there are no tensors that PEFT could load"
    if checkpoint.weights.name not in ("adapter_model.safetensors", "adapter_model.bin"):
        return f"PEFT does not look for `{checkpoint.weights.name}`"
    return ""


def _named(checkpoint: Checkpoint) -> Mapping[str, str]:
    """The errors that files, config, keys and shapes give without the base: code → message."""
    from loradoctor.registry import family

    found: dict[str, str] = {}
    for rule in family("checkpoint"):
        if rule.code.startswith(("LD5", "LD6")):
            for finding in rule.check(checkpoint):
                if (finding.severity or rule.severity) is Severity.ERROR:
                    found.setdefault(rule.code, finding.message)
    return found


def _vacuous(checkpoint: Checkpoint) -> str:
    return checkpoint.structurally_broken or checkpoint.effectless or ""


def labels(checkpoint: Checkpoint) -> int | None:
    """How many labels the saved classification head has; the base's config knows only how many it was made with."""
    for name, tensor in checkpoint.tensors.items():
        if _HEADS.search(name) and len(tensor.shape) == _MATRIX:
            return tensor.shape[0]
    return None


def _not_run(checkpoint: Checkpoint, options: CheckOptions, reason: str) -> tuple[Check, ...]:
    checks = [Check(checkpoint.path, LOADS, "not-run", reason), _merge_not_run(checkpoint, options, reason)]
    if options.merged:
        checks.append(Check(checkpoint.path, audits.NAME, "not-run", reason))
    if options.forward:
        checks.append(Check(checkpoint.path, FORWARD, "not-run", reason))
    return tuple(checks)


def _merge_not_run(checkpoint: Checkpoint, options: CheckOptions, reason: str) -> Check:
    if broken := _vacuous(checkpoint):
        return Check(checkpoint.path, MERGE, "vacuous", broken)
    return Check(checkpoint.path, MERGE, "not-run", reason if options.merge else "`--no-merge`")


def evidence(
    checkpoint: Checkpoint, options: CheckOptions, base: str, answer: Mapping[str, Any], named: Mapping[str, str]
) -> Evidence:
    """What the torch side's ``answer`` about ``checkpoint`` on ``base`` means; ``named`` are the errors that were found without it."""
    versions = answer.get("versions", {})
    if "base_error" in answer:
        reason = f"the base model cannot be built: {answer['base_error']}"
        return Evidence(base=base, checks=_not_run(checkpoint, options, reason), facts={"torch_side": versions}, named=named)
    loads = _outcome(answer)
    merge = tuple(ModuleMerge(**{**m, "shared_with": tuple(m["shared_with"])}) for m in answer.get("merge", ()))
    checks = [_loads_check(checkpoint, loads), _merge_check(checkpoint, options, loads, merge, answer)]
    audit = None
    if options.merged:
        audit = audits.read(answer["audit"], options.merged, broken=_misread(checkpoint, loads, answer), effectless=checkpoint.effectless or "")
        checks.append(audits.summarise(checkpoint.path, audit))
    if options.forward:
        checks.append(_forward_check(checkpoint, answer))
    return Evidence(
        base=base,
        loads=loads,
        loaders=tuple(Loader(**row) for row in answer.get("loaders", ())),
        merge=merge,
        checks=tuple(checks),
        facts={
            "base_path": base,
            "base_class": loads.class_name,
            "base_quantization": answer.get("quantization"),
            "torch_side": versions,
            "merge": _modules(merge),
        },
        named=named,
        unmergeable=str(answer.get("unmergeable", "")),
        vocabulary=answer.get("vocabulary"),
        replaced=_replaced(checkpoint, answer),
        audit=audit,
    )


def _modules(merge: tuple[ModuleMerge, ...]) -> list[dict[str, object]] | None:
    """Every module's numbers as JSON can hold them; None when nothing was merged."""
    rows = [asdict(module) for module in merge]
    return [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows] or None


def _replaced(checkpoint: Checkpoint, answer: Mapping[str, Any]) -> tuple[str, ...]:
    """The embeddings of another base that PEFT saved with the adapter; other weights of a base have no business in the file."""
    differing = set(answer.get("replaced", ()))
    return tuple(k.name for k in checkpoint.keys if k.name in differing and is_embedding(k))


def _outcome(answer: Mapping[str, Any]) -> LoadOutcome:
    raw = dict(answer["loads"])
    lists = {k: tuple(raw[k]) for k in ("missing", "unsaved", "unexpected", "overwritten", "warnings")}
    return LoadOutcome(
        status=raw["status"],
        loaded=raw["loaded"],
        total=raw["total"],
        mismatched=tuple(ShapeMismatch(key, tuple(found), tuple(wanted)) for key, found, wanted in raw["mismatched"]),
        error_type=raw["error_type"],
        error=raw["error"],
        expected={k: tuple(v) for k, v in raw["expected"].items()},
        modules=tuple(answer.get("modules", ())),
        class_name=str(answer.get("class", "")),
        **lists,
    )


def _loads_check(checkpoint: Checkpoint, loads: LoadOutcome) -> Check:
    reason = f"`{LOADER}` on {loads.class_name}: {loads.loaded} of {loads.total} tensors"
    if loads.error_type:
        reason = f"`{LOADER}` on {loads.class_name} raises {loads.error_type}"
    elif loads.missing:
        reason += f", {len(loads.missing)} missing"
    return Check(checkpoint.path, LOADS, "passed" if loads.status == "fully" else "failed", reason)


def _merge_check(
    checkpoint: Checkpoint,
    options: CheckOptions,
    loads: LoadOutcome,
    merge: tuple[ModuleMerge, ...],
    answer: Mapping[str, Any],
) -> Check:
    if broken := _vacuous(checkpoint) or _misread(checkpoint, loads, answer):
        return Check(checkpoint.path, MERGE, "vacuous", broken)
    if not options.merge:
        return Check(checkpoint.path, MERGE, "not-run", "`--no-merge`")
    if reason := answer.get("unmergeable") or answer.get("merge_error"):
        return Check(checkpoint.path, MERGE, "not-run", str(reason))
    return summarise(checkpoint.path, merge)


def _misread(checkpoint: Checkpoint, loads: LoadOutcome, answer: Mapping[str, Any]) -> str:
    """Why the model that PEFT makes of base and adapter is not the one that was trained, ``""`` when it is."""
    if checkpoint.structurally_broken:
        return checkpoint.structurally_broken
    if loads.status == "raises":
        return "PEFT does not load the adapter onto this base"
    if loads.missing:
        return f"{len(loads.missing)} tensors that PEFT needs are not in the file"
    if loads.unexpected:
        return f"{len(loads.unexpected)} tensors of the file match nothing on this base"
    if _replaced(checkpoint, answer):
        return "the adapter was trained on another base, whose embeddings it brings along"
    return ""


def _forward_check(checkpoint: Checkpoint, answer: Mapping[str, Any]) -> Check:
    ran = answer.get("forward")
    if not ran:
        reason = str(answer.get("forward_error", "PEFT does not load the adapter onto this base"))
        return Check(checkpoint.path, FORWARD, "not-run", reason)
    if ran["difference"] is None:
        reason = "there is nothing to merge; the effect is the largest absolute difference of the first output in float32"
        return Check(checkpoint.path, FORWARD, "not-run", reason, effect=ran["effect"])
    # float32 noise of a whole model is about 1e-6; one percent of the adapter's own effect is where it starts to matter.
    bound = max(1e-5, 0.01 * ran["effect"])
    status = "passed" if ran["difference"] <= bound else "failed"
    reason = "largest absolute difference of the first output in float32, merged against unmerged; informational"
    return Check(checkpoint.path, FORWARD, status, reason, ran["difference"], bound, ran["effect"])
