"""`repair`: read, plan, write beside the target, prove, and only then move into place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loradoctor.checkpoint.checkpoint import Checkpoint, read
from loradoctor.checkpoint.evidence import Evidence
from loradoctor.checkpoint.layout import Place, TargetError, places
from loradoctor.checkpoint.run import CheckOptions, check
from loradoctor.config import Settings
from loradoctor.diagnostic import Severity
from loradoctor.repair import planner, proof
from loradoctor.repair.arrays import Inexact
from loradoctor.repair.outcome import REPORT, Outcome, as_json
from loradoctor.repair.plan import Plan, Refusal
from loradoctor.repair.scales import scaling
from loradoctor.repair.source import Source, opened
from loradoctor.repair.steps.names import lower_case
from loradoctor.repair.wishes import Wishes
from loradoctor.repair.write import carry, write


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """``output`` must not exist or be empty; ``base``, ``python``, ``online`` and ``timeout`` are as for `check`."""

    output: str = ""
    dry_run: bool = False
    base: str = "auto"
    python: str | None = None
    online: bool = False
    timeout: float = 600
    wishes: Wishes = field(default_factory=Wishes)


def repair(target: str, options: RepairOptions) -> list[Outcome]:
    """Repair the one adapter that ``target`` means; several outcomes when a foreign file holds several models' adapters.

    Raises :class:`TargetError` when the target, the output or the base cannot be what they are said to be.
    """
    place = _place(target, options)
    initial = options.wishes.initial
    if initial is not None and not Path(initial).is_dir():
        raise TargetError(f"the initial adapter `{initial}` is not a directory")
    if options.output:
        _free(Path(options.output), place.directory)
    try:
        source = opened(place)
    except OSError as error:
        raise TargetError(f"`{target}` cannot be read: {(error.strerror or str(error)).lower()}") from error
    if place.directory.resolve() != Path(target).resolve() and Path(target).is_dir():
        below = f"the adapter is in `{place.path}`: that is the directory to give to PEFT"
        source = replace(source, plan=replace(source.plan, notes=(*source.plan.notes, below)))
    plans = _conversions(source, options)
    if len(plans) > 1 and not options.dry_run:
        # A pipeline's adapters belong together: all of them, or none.
        tried = _each(source, plans, replace(options, dry_run=True))
        if any(one.failed for one in tried):
            return tried
    return _each(source, plans, options)


def _each(source: Source, plans: Mapping[str, Plan], options: RepairOptions) -> list[Outcome]:
    return [_one(replace(source, plan=plan), options, below) for below, plan in plans.items()]


def _place(target: str, options: RepairOptions) -> Place:
    found = places([target], online=options.online)
    if len(found) != 1:
        names = ", ".join(f"`{p.path}`" for p in found[:3])
        raise TargetError(f"there are {len(found)} adapters below `{target}` ({names}): repair one at a time")
    path = Path(target)
    # `check` takes the config and either file for the same adapter; here the one that is named is the one that is meant.
    named = path if path.is_file() and path.suffix in (".safetensors", ".bin") else None
    return replace(found[0], weights=named or found[0].weights)


def _free(output: Path, source: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise TargetError(f"`{output}` exists already: `repair` writes a new directory and replaces nothing")
    if output.resolve().is_relative_to(source.resolve()):
        raise TargetError(f"`{output}` lies in the directory that is repaired")


def _conversions(source: Source, options: RepairOptions) -> dict[str, Plan]:
    """The plans to begin with: what was read, or its conversion when it is another tool's."""
    if source.checkpoint.foreign is None or lower_case(source.checkpoint):
        return {"": source.plan}
    from loradoctor.checkpoint.convert import convert

    found = dict(convert(source.checkpoint, _described(source, options)))
    if not found:
        return {"": source.plan}
    return {below: replace(plan, files=(*source.plan.files, *plan.files)) for below, plan in found.items()}


def _described(source: Source, options: RepairOptions) -> Path | None:
    """Where the base's names and shapes can be read: a model's directory, a pipeline's, or a single file."""
    if options.base == "none":
        return None
    if Path(options.base).exists():
        return Path(options.base)
    found, _ = _base(source, options, "")
    return Path(found) if found is not None and Path(found).is_dir() else None


def _one(source: Source, options: RepairOptions, below: str) -> Outcome:
    shown = source.checkpoint.path
    output = str(Path(options.output) / below) if below else options.output
    with _staging(options, below) as staging:
        base, why_not = _base(source, options, below)
        plan = planner.make(source.plan, source.checkpoint, options.wishes)
        if base is not None and plan.tensors and plan.config:
            plan = _on_base(source, plan, options, staging, base)
        outcome = Outcome(shown, output, "refused" if plan.refusals else "nothing-to-do", plan)
        if plan.refusals:
            return outcome
        if not plan.changes:
            return replace(outcome, remaining=_errors(shown))
        if options.dry_run:
            return replace(outcome, status="planned")
        return _written(source, options, outcome, staging, base, why_not)


def _on_base(source: Source, plan: Plan, options: RepairOptions, staging: Path, base: str) -> Plan:
    """The plan after PEFT was asked about the adapter that the files alone give, and once more about what that changed."""
    evidence = _evidence(plan, staging, options, base)
    if evidence is None:
        return plan
    further = planner.make(source.plan, source.checkpoint, options.wishes, evidence, plan)
    if further.refusals or planner.alike(further, plan):
        return further
    evidence = _evidence(further, staging, options, base)
    return further if evidence is None else planner.judged(further, source.checkpoint, options.wishes, evidence)


def _written(source: Source, options: RepairOptions, outcome: Outcome, staging: Path, base: str | None, why_not: str) -> Outcome:
    plan = outcome.plan
    result = staging / "result"
    result.mkdir()
    try:
        write(plan, result)
        proofs, remaining = _prove(plan, source.checkpoint, result, options, base, why_not)
        if any(p.status == proof.FAILED for p in proofs):
            return replace(outcome, status="not-proved", proofs=proofs, remaining=remaining)
        carried, left = ([], []) if source.alone else carry(source.checkpoint.directory, result, source.replaced)
        done = replace(outcome, status="repaired", proofs=proofs, remaining=remaining, carried=tuple(carried), left=tuple(left))
        (result / REPORT).write_text(json.dumps(as_json(done), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _settle(result, Path(outcome.output))
    except (OSError, Inexact) as error:
        refused = replace(plan, refusals=(Refusal(f"the result cannot be written: {error}"),))
        return replace(outcome, status="refused", plan=refused)
    return done


def _settle(result: Path, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.exists():
        output.rmdir()
    # mkdtemp made the staging for this user alone; the result is a directory like any other.
    umask = os.umask(0)
    os.umask(umask)
    result.chmod(0o777 & ~umask)
    result.rename(output)


@contextlib.contextmanager
def _staging(options: RepairOptions, below: str) -> Iterator[Path]:
    """A directory on the target's own file system, gone afterwards whatever happens; elsewhere for a dry run."""
    parent = None if options.dry_run or not options.output else (Path(options.output) / below).parent
    if parent is not None:
        while not parent.exists():
            parent = parent.parent
    try:
        made = Path(tempfile.mkdtemp(prefix=".loradoctor-repair-", dir=parent))
    except OSError as error:
        raise TargetError(f"`{options.output}` cannot be written: {(error.strerror or str(error)).lower()}") from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _base(source: Source, options: RepairOptions, below: str) -> tuple[str | None, str]:
    """The base that PEFT can be asked about, or None and why not; of a pipeline the model that the adapter in ``below`` is for."""
    from loradoctor.checkpoint.base_lookup import find

    asked = Path(options.base)
    if options.base == "none":
        return None, "`--no-base`"
    if source.checkpoint.foreign is not None and asked.exists():
        asked = asked / below
        if not (asked / "config.json").is_file():
            return None, f"`{asked}` is no model that PEFT could load the result onto"
        return str(asked.resolve()), ""
    return find(source.checkpoint, _options(options, options.base))


def _options(options: RepairOptions, base: str) -> CheckOptions:
    return CheckOptions(
        base=base,
        python=options.python,
        online=options.online,
        merge=options.wishes.drop_base_weights,
        timeout=options.timeout,
        settings=Settings(),
    )


def _evidence(plan: Plan, staging: Path, options: RepairOptions, base: str) -> Evidence | None:
    """What PEFT makes of the adapter as the files alone let it be repaired; None when it cannot be asked."""
    from loradoctor.checkpoint.base import examine

    draft = staging / "draft"
    draft.mkdir()
    try:
        write(plan, draft)
        return examine(read(str(draft), draft), _options(options, base))
    except TargetError:
        raise
    except Exception:  # noqa: BLE001 -- whatever happens over there, the files alone can still be repaired
        return None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _errors(path: str) -> tuple[str, ...]:
    """What `check` without the base calls an error."""
    report = check(path, CheckOptions(base="none"))
    return tuple(f"{d.code} {d.message}" for d in report.at_least(Severity.ERROR))


def _prove(
    plan: Plan, before: Checkpoint, result: Path, options: RepairOptions, base: str | None, why_not: str
) -> tuple[tuple[proof.Proof, ...], tuple[str, ...]]:
    written = read(str(result), result)
    proofs = [proof.stored(plan, result), proof.updates(plan, written), scaling(plan, before, written)]
    report = check(str(result), _options(options, base or "none"))
    errors = report.at_least(Severity.ERROR)
    incomplete = [d for d in errors if d.code == "LD002"]
    structural = [d for d in errors if d.code.startswith(("LD5", "LD6"))]
    seen = "`check`" if base is not None else "`check --no-base`"
    if structural:
        proofs.append(proof.Proof("check", proof.FAILED, "; ".join(f"{d.code} {d.message}" for d in structural[:3])))
    elif incomplete:
        proofs.append(proof.Proof("check", proof.NOT_RUN, incomplete[0].message))
    else:
        proofs.append(proof.Proof("check", proof.PASSED, f"{seen} finds no error in files, config, keys and shapes"))
    proofs.append(_asked(plan, written, options, base) if base is not None else proof.Proof("peft", proof.NOT_RUN, why_not))
    return tuple(proofs), tuple(f"{d.code} {d.message}" for d in errors if d not in (*structural, *incomplete))


def _asked(plan: Plan, written: Checkpoint, options: RepairOptions, base: str) -> proof.Proof:
    """Have the real PEFT load the result and compare what it computes."""
    from loradoctor.checkpoint.base import labels
    from loradoctor.oracle.client import BadInterpreter, TorchSideFailed, TorchSideMissing, ask

    request: dict[str, Any] = {
        "task": "probe",
        "adapter": str(written.directory.absolute()),
        "base": base,
        "online": options.online,
        "num_labels": labels(written),
        "modules": list(written.by_module)[:1000],
    }
    try:
        answer = ask(request, python=options.python, timeout=options.timeout)
    except BadInterpreter as error:
        raise TargetError(str(error)) from error
    except (TorchSideMissing, TorchSideFailed) as error:
        return proof.Proof("peft", proof.NOT_RUN, f"the torch side gave no answer: {error}")
    return proof.probed(plan, written, answer)
