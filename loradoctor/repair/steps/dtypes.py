"""Dtypes: one for both halves and for what PEFT computes in, without losing a bit unless the user asks for it."""

from __future__ import annotations

from loradoctor.checkpoint.tensor import TensorInfo
from loradoctor.repair import arrays
from loradoctor.repair.draft import Draft
from loradoctor.repair.pairs import both_halves
from loradoctor.repair.plan import cast

_WIDENED = {
    frozenset({"F16", "F32"}): "F32", frozenset({"BF16", "F32"}): "F32", frozenset({"F16", "BF16"}): "F32",
    frozenset({"F32", "F64"}): "F64",
}  # fmt: skip
"""The narrowest dtype that holds every value of both."""


def dtypes(draft: Draft) -> None:
    """Cast what the user asks for; otherwise widen the narrower half, and narrow doubles that are single precision in disguise."""
    tensors = draft.checkpoint.tensors
    if draft.wishes.dtype is not None:
        wanted = draft.wishes.dtype
        names = [n for n, info in tensors.items() if info.is_float and info.dtype != wanted]
        draft.transform(names, lambda _: (cast(wanted),), f"{wanted} was asked for (`--dtype`)")
        return
    if draft.lora is None:
        return
    _whole_numbers(draft)
    _narrow_floats(draft)
    for roles in draft.checkpoint.by_module.values():
        pair = both_halves(roles)
        if pair is None:
            continue
        names = [key.name for key in pair]
        found = frozenset(tensors[n].dtype for n in names)
        if wider := _WIDENED.get(found):
            widen = [n for n in names if tensors[n].dtype != wider]
            draft.transform(widen, lambda _, to=wider: (cast(to),), "both halves get the wider dtype, which changes no value")  # type: ignore[misc]
    _doubles(draft)


def _halves(draft: Draft) -> dict[str, TensorInfo]:
    tensors = draft.checkpoint.tensors
    return {k.name: tensors[k.name] for k in draft.checkpoint.keys if k.role.startswith("lora_")}


def _whole_numbers(draft: Draft) -> None:
    integers = [n for n, info in _halves(draft).items() if info.dtype.startswith(("I", "U"))]
    if integers:
        draft.refuse(
            f"{len(integers)} tensors hold integers, which PEFT takes for the weights themselves",
            "the scale with which they were quantized, or the adapter before that",
        )


def _narrow_floats(draft: Draft) -> None:
    eighths = [n for n, info in _halves(draft).items() if info.dtype in ("F8_E4M3", "F8_E5M2")]
    draft.transform(eighths, lambda _: (cast("BF16"),), "bfloat16 holds every value of an 8-bit float, and every loader reads it")


def _doubles(draft: Draft) -> None:
    doubles = [n for n, info in _halves(draft).items() if info.dtype == "F64"]
    if not doubles:
        return
    try:
        exact = all(arrays.exactly(arrays.array(draft.start, draft.steps[n]), "F32") for n in doubles)
    except (OSError, arrays.Inexact):
        exact = False
    if exact:
        draft.transform(doubles, lambda _: (cast("F32"),), "the doubles hold single precision: no value changes")
    else:
        draft.note(f"{len(doubles)} tensors stay double precision: PEFT rounds them to single on load, and so would `--dtype float32`")
