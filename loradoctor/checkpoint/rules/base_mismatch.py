"""LD615: the adapter belongs to another base model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from loradoctor.checkpoint.fit import Misfit, data, diagnose, shown
from loradoctor.checkpoint.known_bases import advice, conflict, fitting, sizes
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint


@rule("LD615", Severity.ERROR, "M1", "M2")
def base_mismatch(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The adapter was made for a model of another width, depth or architecture than this base.

    Tensors of the wrong width make PEFT stop with a size mismatch. Another depth or other module names do not: PEFT loads what
    happens to match, says nothing about the rest, and the model is adapted in part.

    Without the base at hand, the sizes of well-known bases are compared with those that the tensors show.

    Use the base that the adapter was trained on; `base_model_name_or_path` in its config names it. If the base is right and only
    some layers were meant, `layers_to_transform` has to say so in the config.
    """
    if checkpoint.evidence is None or checkpoint.evidence.loads is None:
        yield from _by_name(checkpoint)
        return
    misfit = diagnose(checkpoint)
    if misfit is None or misfit.kind not in _MESSAGES:
        return
    message, help_ = _MESSAGES[misfit.kind](misfit, checkpoint.evidence.loads.class_name)
    found = _shown(checkpoint)
    yield checkpoint.finding(
        message,
        key=misfit.keys[0] if misfit.keys else None,
        help=f"{help_}. {found[0]}" if found else help_,
        data={**data(misfit), **(found[1] if found else {})},
    )


def _shown(checkpoint: Checkpoint) -> tuple[str, dict[str, object]] | None:
    """What the tensors show of the base they were made for, as a sentence and as data."""
    shown = sizes(checkpoint)
    if not str(shown):
        return None
    names = fitting(shown, checkpoint.by_module)
    return advice(checkpoint), {"shape": shown.as_data(), "known_bases": list(names)}


def _by_name(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Without the base at hand: the config names one whose sizes are known, and they are not those of the tensors."""
    config = checkpoint.config
    if config is None or config.base is None or checkpoint.comparable is None:
        return
    shown = sizes(checkpoint)
    other = conflict(shown, config.base)
    if other is not None:
        yield checkpoint.finding(
            f"the tensors are not of the base that the config names: `{config.base}` has {other[0]}, they are for {shown}",
            "base_model_name_or_path",
            of="config",
            severity=Severity.WARNING,
            help=f"loading onto that base stops with a size mismatch, or leaves layers out. {advice(checkpoint)}",
            data={
                "cause": "named-base",
                "shape": shown.as_data(),
                "known_bases": list(fitting(shown, checkpoint.by_module)),
            },
        )


def _shapes(misfit: Misfit, base: str) -> tuple[str, str]:
    detail = misfit.detail
    return (
        (
            f"{len(misfit.keys)} tensors have another shape than `{base}` needs: `{detail['key']}` is {detail['found']}, "
            f"the base needs {detail['wanted']}"
        ),
        "loading stops with a size mismatch: this is not the base that the adapter was trained on, or not its size",
    )


def _deeper(misfit: Misfit, base: str) -> tuple[str, str]:
    detail = misfit.detail
    return (
        (f"the adapter has {detail['adapter_layers']} layers, `{base}` has {detail['base_layers']}: {shown(misfit.keys)} match nothing"),
        "PEFT drops them without a word: use the base that the adapter was trained on",
    )


def _shallower(misfit: Misfit, base: str) -> tuple[str, str]:
    detail = misfit.detail
    return (
        (
            f"the adapter covers {detail['adapter_layers']} layers, `{base}` has {detail['base_layers']}: "
            f"{len(misfit.keys)} tensors are missing for the others"
        ),
        ("the other layers stay unadapted: use the base that the adapter was trained on, or set `layers_to_transform` if that was meant"),
    )


def _architecture(misfit: Misfit, base: str) -> tuple[str, str]:
    detail = misfit.detail
    return (
        f"{detail['absent']} of {detail['modules']} modules of the adapter do not exist in `{base}`: {shown(misfit.keys)}",
        "PEFT does not load their tensors: the adapter was trained on another architecture. Name the right base with `--base`",
    )


def _unused(misfit: Misfit, base: str) -> tuple[str, str]:
    return (
        f"{len(misfit.keys)} of {misfit.detail['tensors']} tensors match nothing adapted in `{base}`: {shown(misfit.keys)}",
        "PEFT drops them without a word: either this is another base, or the config no longer names these modules",
    )


_MESSAGES: Mapping[str, Callable[[Misfit, str], tuple[str, str]]] = {
    "shapes": _shapes,
    "deeper": _deeper,
    "shallower": _shallower,
    "architecture": _architecture,
    "unused": _unused,
}
