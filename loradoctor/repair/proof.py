"""What a repair kept: the bytes, the update of every module, and what PEFT makes of the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loradoctor.checkpoint import weights
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.header import read_header
from loradoctor.checkpoint.methods.lora import expected_rank, scaling_of
from loradoctor.checkpoint.target_modules import pattern_key
from loradoctor.checkpoint.wording import counted, verb
from loradoctor.repair import arrays
from loradoctor.repair.pairs import both_halves
from loradoctor.repair.plan import Origin, Plan, Source, TensorStep, Transform

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

PASSED, FAILED, NOT_RUN = "passed", "failed", "not-run"
_ROWS = 64
"""Rows of a large update that are computed; every one depends on both halves."""
_LARGE = 1 << 20
"""Elements up to which an update is compared as a whole."""
_SINGLE = 2e-5
"""How far a number that PEFT computed in single precision may be off, relative to the sum of the magnitudes in it."""
_LOSSLESS = frozenset({"transpose", "permute", "reshape", "slice", "negate"})


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was looked at: ``status`` is ``passed``, ``failed`` or ``not-run``."""

    name: str
    status: str
    detail: str


def stored(plan: Plan, directory: Path) -> Proof:
    """Whether the written file holds exactly what the plan says, read anew from both sides. Raises OSError."""
    path = directory / weights.SAFETENSORS
    header = read_header(path)
    if set(header.tensors) != {step.target for step in plan.tensors}:
        return Proof("bytes", FAILED, "the written file holds other tensors than planned")
    copied = changed = size = 0
    for step in plan.tensors:
        info = header.tensors[step.target]
        written = arrays.pieces(_copy_of(step.target, Origin(path, info)), TensorStep.of(step.target, step.target))
        if not _equal(written, arrays.pieces(plan, step)):
            return Proof("bytes", FAILED, f"`{step.target}` was not written as planned")
        copied, changed = copied + step.is_copy, changed + (not step.is_copy)
        size += info.nbytes
    detail = f"{counted(copied, 'tensor')} {verb(copied, 'is', 'are')} as in the source, byte for byte"
    more = f", {changed:,} transformed as planned" if changed else ""
    return Proof("bytes", PASSED, f"{detail}{more} ({size:,} bytes)")


def _copy_of(name: str, origin: Origin) -> Plan:
    return Plan({name: origin}, (), {})


def _equal(one: Iterator[bytes], other: Iterator[bytes]) -> bool:
    left, right = b"", b""
    while True:
        left, right = left or next(one, b""), right or next(other, b"")
        if not left or not right:
            return not left and not right
        size = min(len(left), len(right))
        if left[:size] != right[:size]:
            return False
        left, right = left[size:], right[size:]


def updates(plan: Plan, result: Checkpoint) -> Proof:
    """Whether ΔW of every module is, bit for bit, what the sources multiply to. Raises OSError and :class:`arrays.Inexact`."""
    steps = {step.target: step for step in plan.tensors}
    same = multiplied = widened = 0
    rounded: list[str] = []
    for module, roles in result.by_module.items():
        pair = both_halves(roles)
        if pair is None:
            continue
        a, b = steps[pair[0].name], steps[pair[1].name]
        kinds = {t.kind for step in (a, b) for t in _transforms(step)}
        if not kinds and len(a.sources) == 1:
            same += 1
        elif "cast" in kinds:
            exact = all(_exact(plan, step) for step in (a, b))
            widened += exact
            rounded += [] if exact else [module]
        elif kinds <= _LOSSLESS and not _multiplies(plan, a, b):
            return Proof("updates", FAILED, f"the update of `{module}` is not what its sources multiply to")
        else:
            multiplied += 1
    parts = [
        f"{counted(same, 'module')} {verb(same, 'keeps', 'keep')} the bytes of both halves" if same else "",
        f"{counted(multiplied, 'module')} {verb(multiplied, 'multiplies', 'multiply')} to the same update bit for bit"
        if multiplied
        else "",
        f"{counted(widened, 'module')} {verb(widened, 'is', 'are')} cast without changing a value" if widened else "",
        f"{counted(len(rounded), 'module')} {verb(len(rounded), 'is', 'are')} rounded to another dtype, as asked" if rounded else "",
    ]
    detail = ", ".join(p for p in parts if p)
    return (
        Proof("updates", PASSED, detail)
        if detail
        else Proof("updates", NOT_RUN, "the method has no pair of low-rank halves; see the bytes")
    )


def _transforms(step: TensorStep) -> tuple[Transform, ...]:
    return tuple(t for source in step.sources for t in source.transforms) + step.transforms


def _exact(plan: Plan, step: TensorStep) -> bool:
    """Whether the casts of a step change no value."""
    import numpy as np

    plain = replace(step, transforms=tuple(t for t in step.transforms if t.kind != "cast"))
    before, after = arrays.array(plan, plain), arrays.array(plan, step)
    wide = np.float64
    return bool(np.array_equal(before.astype(wide), after.astype(wide), equal_nan=True))


def _multiplies(plan: Plan, a: TensorStep, b: TensorStep) -> bool:
    """Whether B·A of the result is the sum of the sources' own products, summed in the same order."""
    import numpy as np

    after_a, after_b = arrays.array(plan, a), arrays.array(plan, b)
    if after_a.ndim != 2 or after_b.ndim != 2:
        return True
    rows = _rows(after_b.shape[0], after_a.shape[1])
    after = _product(after_a, after_b, rows)
    before = np.zeros_like(after)
    if len(a.sources) != len(b.sources) or _sign(a, a.sources[0]) * _sign(b, b.sources[0]) < 0:
        return False
    for one, other in zip(a.sources, b.sources, strict=True):
        before = _accumulated(before, _in_place(plan, a, one), _in_place(plan, b, other), rows, _sign(a, one) * _sign(b, other))
    return bool(np.array_equal(before, after, equal_nan=True))


def _in_place(plan: Plan, step: TensorStep, source: Source) -> Array:
    """A source turned by hand as the step turns it, without its signs: numpy's own axes, not the transforms of the plan."""
    values = arrays.numbers(plan.origins[source.name])
    swaps = sum(t.kind == "transpose" for t in (*source.transforms, *step.transforms))
    if {t.kind for t in (*source.transforms, *step.transforms)} - {"transpose", "negate"}:
        plain = tuple(t for t in source.transforms if t.kind != "negate")
        alone = TensorStep(step.target, (Source(source.name, plain),), step.transforms)
        return arrays.array(plan, alone)
    return values.swapaxes(0, 1) if swaps % 2 else values


def _sign(step: TensorStep, source: Source) -> int:
    return -1 if sum(t.kind == "negate" for t in (*source.transforms, *step.transforms)) % 2 else 1


def _rows(out: int, width: int) -> Array:
    import numpy as np

    return np.arange(out) if out * width <= _LARGE else np.unique(np.linspace(0, out - 1, _ROWS).astype(int))


def _product(a: Array, b: Array, rows: Array) -> Array:
    import numpy as np

    return _accumulated(np.zeros((len(rows), a.shape[1])), a, b, rows, 1)


def _accumulated(total: Array, a: Array, b: Array, rows: Array, sign: int) -> Array:
    """``total`` plus B·A, one rank after the other: the order of the sum decides its last bit."""
    import numpy as np

    left, right = b[rows].astype(np.float64), a.astype(np.float64)
    for k in range(right.shape[0]):
        total = total + sign * np.outer(left[:, k], right[k])
    return total


def probed(plan: Plan, result: Checkpoint, answer: Mapping[str, Any]) -> Proof:
    """Whether the real PEFT, having loaded the result, computes the updates that the sources multiply to."""
    if "base_error" in answer:
        return Proof("peft", NOT_RUN, f"the base model cannot be built: {answer['base_error']}")
    loads = answer["loads"]
    if loads["error_type"]:
        return Proof("peft", FAILED, f"PEFT raises {loads['error_type']}: {loads['error'].splitlines()[0] if loads['error'] else ''}")
    said = f"PEFT loads {loads['loaded']} of {loads['total']} tensors onto {answer['class']}"
    if loads["missing"] or loads["unexpected"]:
        return Proof("peft", FAILED, f"{said}, {len(loads['missing'])} missing, {len(loads['unexpected'])} unexpected")
    compared = 0
    for module, value in answer["probes"].items():
        wanted = _wanted(plan, result, module) if value is not None else None
        if wanted is None:
            continue
        number, size = wanted
        compared += 1
        if abs(value - number) > _bound(result) * size + 1e-30:
            return Proof("peft", FAILED, f"{said}, but the update of `{module}` is another: {value:g} on the probe, not {number:g}")
    computed = f"; what it computes from {counted(compared, 'module')} is what the sources multiply to" if compared else ""
    return Proof("peft", PASSED, f"{said}{computed}")


def _bound(result: Checkpoint) -> float:
    # Half-precision halves are multiplied in single precision and the product is rounded back (peft/tuners/lora/layer.py).
    dtypes = {info.dtype for info in result.tensors.values()}
    return _SINGLE if dtypes <= {"F32", "F64"} else 1e-2


def _wanted(plan: Plan, result: Checkpoint, module: str) -> tuple[float, float] | None:
    """uᵀ·s·B·A·v from the sources in double precision, and the sum of the magnitudes in it."""
    import numpy as np

    from loradoctor.oracle.client import PROBE

    pair = both_halves(result.by_module.get(module, {}))
    config = result.config
    if pair is None or config is None or config.peft_type != "LORA":
        return None
    steps = {step.target: step for step in plan.tensors}
    a, b = (arrays.array(plan, steps[k.name]).astype(np.float64) for k in pair)
    rank, alphas = expected_rank(config, module), config.pattern("alpha_pattern")
    key = pattern_key(alphas, module)
    scale = scaling_of(config, rank.value if rank is not None else None, alphas[key] if key is not None else None)
    if a.ndim != 2 or b.ndim != 2 or scale is None or a.shape[0] != b.shape[1]:
        return None
    step, left_start, right_start = PROBE
    left = np.cos(step * np.arange(b.shape[0]) + left_start)
    right = np.cos(step * np.arange(a.shape[1]) + right_start)
    number = scale * float((left @ b) @ (a @ right))
    size = abs(scale) * float((np.abs(left) @ np.abs(b)) @ (np.abs(a) @ np.abs(right)))
    return number, size
