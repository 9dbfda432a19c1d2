"""Adapter against base model: the one reason why they do not fit together, found in what PEFT did with them.

Several rules report the result, each its own kind; a single diagnosis keeps them from reporting one cause twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loradoctor.checkpoint.grid import missing_experts
from loradoctor.checkpoint.key import PREFIX
from loradoctor.checkpoint.methods import UNKNOWN
from loradoctor.diagnostic import Severity

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint
    from loradoctor.checkpoint.evidence import LoadOutcome, ShapeMismatch
    from loradoctor.diagnostic import Finding

# Errors from the files alone after which the load still says something new: injected base weights load like others, and
# a hole in the grid, or a first layer that is gone, is only a guess at what PEFT will miss on the base. Any other one already explains what happens.
HARMLESS = frozenset({"LD606", "LD608", "LD610"})

MOSTLY = 0.9
"""share of the stray keys that a change of prefix must explain; a few saved extras may stay behind"""

_TOPS = 4
"""how many parts of a model, such as a text and an image encoder, are tried one by one"""

_TEXT = frozenset({"language_model", "text_model", "decoder"})
SOME = 0.25
"""share of the stray keys that must fit when everything the base lacks is found among them"""

_LAYER = re.compile(r"\.(\d+)\.")
_VOCABULARY = frozenset({"embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "shared", "embedding"})
_NO_TARGET = ("NoMatchingPeftModuleError",)


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why the adapter does not fit: ``kind`` picks the rule, ``keys`` are the tensors or modules concerned."""

    kind: str
    keys: tuple[str, ...] = ()
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PrefixChange:
    """Replace ``old`` by ``new`` at the start of the keys; ``added`` and ``removed`` are the path components that differ."""

    old: str
    new: str
    added: str
    removed: str


def diagnose(checkpoint: Checkpoint) -> Misfit | None:
    """The reason why the base does not take the adapter, None when it does or when the files alone already say why not."""
    evidence = checkpoint.evidence
    if evidence is None or evidence.loads is None or set(evidence.named) - HARMLESS:
        return None
    loads = evidence.loads
    if loads.status == "fully" or _renamed(checkpoint, loads) or _explained(checkpoint, loads):
        return None
    for look in (_prefix, _experts, _shapes, _collision, _depth, _architecture, _rest):
        if misfit := look(checkpoint, loads):
            return misfit
    return None


def _renamed(checkpoint: Checkpoint, loads: LoadOutcome) -> bool:
    """Whether what does not fit are keys with the adapter's name left in, which `adapter-name-in-key` reports."""
    odd = {key.name for key in checkpoint.keys if "adapter-name" in key.problems}
    return bool(odd) and not loads.error_type and set(loads.unexpected) <= odd


def _explained(checkpoint: Checkpoint, loads: LoadOutcome) -> bool:
    """Whether PEFT raised for what other rules name: a method it does not have, a token beyond the vocabulary."""
    unknown = checkpoint.method.until is not None or checkpoint.method is UNKNOWN
    removed = loads.error_type == "KeyError" and unknown
    beyond = loads.error_type == "IndexError" and bool(checkpoint.config and checkpoint.config.get("trainable_token_indices"))
    return removed or beyond


def _prefix(checkpoint: Checkpoint, loads: LoadOutcome) -> Misfit | None:
    strays: dict[str, tuple[int, ...]]
    wanted: dict[str, tuple[int, ...]]
    if loads.expected:
        strays = {name: info.shape for name, info in checkpoint.tensors.items() if name not in loads.expected}
        wanted = {key: shape for key, shape in loads.expected.items() if key not in checkpoint.tensors}
    else:
        known = set(loads.modules)
        strays = {key.module: () for key in checkpoint.keys if key.role and key.module not in known}
        wanted = dict.fromkeys(loads.modules, ())
    change = prefix_change(strays, wanted)
    if change is None:
        return None
    keys = tuple(name for name in strays if change.new + name[len(change.old) :] in wanted and name.startswith(change.old))
    # PEFT that found no target has no keys to compare, only module paths; in the file they stand behind its prefix.
    top = "" if loads.expected else PREFIX
    detail = {"old": f"{top}{change.old}", "new": f"{top}{change.new}", "added": change.added, "removed": change.removed}
    more = {"tensors": len(strays)} if len(keys) < MOSTLY * len(strays) else {}
    return Misfit("prefix", keys if more else tuple(strays), {**detail, **more})


def prefix_change(strays: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> PrefixChange | None:
    """The only replacement of leading path components that makes the ``strays`` some of ``wanted``, if there is one.

    It has to explain (nearly) all of the strays, or to find every one of ``wanted``: then the strays are of a larger model.
    Both map names to shapes, which must agree.
    """
    scores: dict[tuple[str, str], int] = {}
    seeds = _seeds(strays)
    for candidate in wanted if seeds else ():
        path = candidate.split(".")
        for seed in seeds:
            pair = _heads(seed, path)
            if pair is not None and pair not in scores and not _renumbers(*pair):
                old, new = pair
                scores[pair] = sum(wanted.get(new + s[len(old) :]) == shape for s, shape in strays.items() if s.startswith(old))
    best = max(scores.values(), default=0)
    whole = len(wanted) if len(wanted) >= SOME * len(strays) else len(strays)
    if best == 0 or best < min(MOSTLY * len(strays), whole):
        return None
    winners = [pair for pair, score in scores.items() if score == best]
    if len(winners) > 1:
        # The layers of an image encoder are numbered like those of the text model beside it.
        there, here = ([pair for pair in winners if _TEXT & set(pair[side].split("."))] for side in (1, 0))
        winners = there or here
    if len(winners) != 1:
        return None
    old, new = winners[0]
    removed, added = _difference(old, new)
    return PrefixChange(old, new, added, removed)


def _seeds(strays: Iterable[str]) -> list[list[str]]:
    """One stray per top of the paths: a model of text and images has its language model under one of them."""
    found: dict[tuple[str, ...], list[str]] = {}
    for stray in strays:
        parts = stray.split(".")
        end = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
        found.setdefault(tuple(parts[:end]), parts)
    return list(found.values())[:_TOPS]


def _heads(first: list[str], other: list[str]) -> tuple[str, str] | None:
    """What stands before the longest common tail of two paths; None when no tail or nothing else differs."""
    length = 0
    while length < min(len(first), len(other)) and first[-1 - length] == other[-1 - length]:
        length += 1
    if length == 0 or len(first) == len(other) == length:
        return None
    return _dotted(first[: len(first) - length]), _dotted(other[: len(other) - length])


def _renumbers(old: str, new: str) -> bool:
    """Whether the two differ in a number only: then it is another layer, not another prefix."""
    removed, added = _difference(old, new)
    return removed.rstrip(".").isdigit() and added.rstrip(".").isdigit()


def _difference(old: str, new: str) -> tuple[str, str]:
    before, after = old.split(".")[:-1], new.split(".")[:-1]
    while before and after and before[0] == after[0]:
        before, after = before[1:], after[1:]
    return _dotted(before), _dotted(after)


def _dotted(parts: list[str]) -> str:
    return "".join(f"{part}." for part in parts)


def _experts(checkpoint: Checkpoint, loads: LoadOutcome) -> Misfit | None:
    """Experts stored one by one are fused on load; where one is missing that fails with a shape that explains nothing."""
    if not (loads.mismatched or loads.error_type):
        return None
    lost = missing_experts(checkpoint.by_module)
    names = tuple(f"base_model.model.{module}.{half}.weight" for module in lost for half in ("lora_A", "lora_B"))
    return Misfit("missing", names, {"experts": len(lost)}) if lost else None


def _shapes(_: Checkpoint, loads: LoadOutcome) -> Misfit | None:
    if not loads.mismatched:
        return None
    # `original_module` is a copy that PEFT saves along after a resize; the module itself is in the file as well.
    own = [m for m in loads.mismatched if ".original_module." not in m.key] or list(loads.mismatched)
    keys = tuple(m.key for m in own)
    first = own[0]
    detail = {"key": first.key, "found": list(first.found), "wanted": list(first.wanted)}
    if all(_resized(m) for m in own):
        return Misfit("vocabulary", keys, detail)
    return Misfit("shapes", keys, detail)


def _resized(mismatch: ShapeMismatch) -> bool:
    """Whether only the number of tokens differs, in an embedding or an output layer."""
    parts = mismatch.key.split(".")
    where = _VOCABULARY & set(parts)
    axis = 1 if "lora_embedding_A" in parts else 0
    same_rank = len(mismatch.found) == len(mismatch.wanted) and len(mismatch.found) > axis
    rest = [i for i in range(len(mismatch.found)) if i != axis]
    return bool(where) and same_rank and all(mismatch.found[i] == mismatch.wanted[i] for i in rest)


def _collision(_: Checkpoint, loads: LoadOutcome) -> Misfit | None:
    """Missing is exactly what stands below one component of the paths: PEFT drops that when another adapter has its name."""
    if loads.error_type or loads.unexpected or not loads.missing:
        return None
    lost = set(loads.missing)
    kept = [key for key in loads.expected if key not in lost]
    # The last component of a module is what `target_modules` lists: all of them missing is a target too many.
    inner = loads.missing[0].removeprefix(PREFIX).split(".lora_")[0].split(".")[:-1]
    # Before the number of the layer stand the parts of a model, such as an image encoder: nobody calls an adapter that.
    first = next((i for i, part in enumerate(inner) if part.isdigit()), 0)
    for component in inner[first:] if kept else ():
        within = f".{component}."
        numbered = component.isdigit() and component != "0"
        if not numbered and all(within in key for key in lost) and not any(within in key for key in kept):
            return Misfit("collision", loads.missing, {"component": component})
    return None


def _depth(checkpoint: Checkpoint, loads: LoadOutcome) -> Misfit | None:
    mine = set(_layers(checkpoint.tensors))
    theirs = set(_layers(loads.expected))
    if not mine or not theirs or loads.error_type:
        return None
    beyond = [key for key in loads.unexpected if set(_layers([key])) - theirs]
    uncovered = [key for key in loads.missing if set(_layers([key])) - mine]
    detail = {"adapter_layers": max(mine) + 1, "base_layers": max(theirs) + 1}
    if beyond and len(beyond) == len(loads.unexpected) and not loads.missing:
        return Misfit("deeper", tuple(beyond), detail)
    contiguous = mine == set(range(len(mine)))
    if uncovered and len(uncovered) == len(loads.missing) and not loads.unexpected and contiguous:
        return Misfit("shallower", tuple(uncovered), detail)
    return None


def _layers(keys: Collection[str] | Mapping[str, object]) -> Iterator[int]:
    for key in keys:
        if match := _LAYER.search(key):
            yield int(match[1])


def _architecture(checkpoint: Checkpoint, loads: LoadOutcome) -> Misfit | None:
    known = set(loads.modules)
    absent = tuple(dict.fromkeys(key.module for key in checkpoint.keys if key.role and key.module and key.module not in known))
    unmatched = loads.error_type in _NO_TARGET or "not found in the base model" in loads.error
    if not absent or not (unmatched or loads.unexpected) or _shifted(loads):
        return None
    total = len({key.module for key in checkpoint.keys if key.role and key.module})
    return Misfit("architecture", absent, {"absent": len(absent), "modules": total})


def _rest(_: Checkpoint, loads: LoadOutcome) -> Misfit | None:
    if loads.error_type:
        return Misfit("raises", (), {"error": f"{loads.error_type}: {_line(loads.error)}".rstrip(": ")})
    if loads.missing:
        return Misfit("missing", loads.missing, {"shifted": _shifted(loads)})
    if loads.unexpected:
        return Misfit("unused", loads.unexpected, {"tensors": loads.total})
    return None


def _shifted(loads: LoadOutcome) -> bool:
    """Whether what is left over are the same tensors as what is missing, in other layers."""
    left, wanted = ({_LAYER.sub(".#.", key, count=1) for key in keys} for keys in (loads.unexpected, loads.missing))
    return bool(left) and left <= wanted


def _line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # torch's `Error(s) in loading state_dict for X:` says nothing; what is wrong stands on the next line.
    first = lines[1] if len(lines) > 1 and lines[0].endswith(":") else (lines[0] if lines else "")
    return first[:240]


def other_loader(checkpoint: Checkpoint) -> str:
    """A way out that costs nothing: the loader that takes the adapter fully where PEFT does not; ``""`` when there is none."""
    rows = checkpoint.evidence.loaders if checkpoint.evidence is not None else ()
    full = [row.loader for row in rows if row.status == "full"]
    taken = "transformers load_adapter" in full and "PeftModel.from_pretrained" not in full
    return "`load_adapter` of a transformers model takes it as it is" if taken else ""


def shown(keys: Sequence[str], limit: int = 3) -> str:
    """Up to three names in backticks and how many more there are."""
    names = ", ".join(f"`{key}`" for key in keys[:limit])
    return names + (f" and {len(keys) - limit} more" if len(keys) > limit else "")


def data(misfit: Misfit) -> dict[str, object]:
    """What a program needs to know about the misfit."""
    return {"cause": misfit.kind, "count": len(misfit.keys), "examples": list(misfit.keys[:3]), **misfit.detail}


def missing_on_base(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The finding for tensors that PEFT expects on this base and the file does not have (part of `missing-tensors`)."""
    if checkpoint.evidence is None or checkpoint.evidence.loads is None:
        return
    loads = checkpoint.evidence.loads
    if loads.unsaved:
        yield checkpoint.finding(
            f"the {len(loads.unsaved)} biases that `bias` in the config says were trained are not in the file: {shown(loads.unsaved)}",
            "bias",
            of="config",
            severity=Severity.INFO,
            help="PEFT before 0.21 does not save them and no release misses them: the model runs with the base's own biases. Train "
            'with a newer PEFT, or with `bias="none"`',
            data={"cause": "biases-unsaved", "count": len(loads.unsaved), "examples": list(loads.unsaved[:3])},
        )
    misfit = diagnose(checkpoint)
    if misfit is None or misfit.kind != "missing":
        return
    help_ = (
        "PEFT warns at most and leaves these modules as they were initialised: they do nothing. "
        "Save the adapter again, or name fewer `target_modules`"
    )
    if misfit.detail.get("shifted"):
        help_ = (
            "the file also has tensors for modules that are not adapted here: the layer numbers may be shifted. "
            "Save the adapter again from the model it was trained on"
        )
    needed = f"{len(misfit.keys)} of {len(loads.expected)} tensors"
    if misfit.detail.get("experts"):
        # The base's experts are fused: what it expects cannot be counted in the names of the file.
        needed = f"{len(misfit.keys)} tensors of single experts"
        help_ = "loading stops while the experts are fused into one tensor: save the adapter again from the model it was trained on"
    yield checkpoint.finding(
        f"{needed} that PEFT needs on `{loads.class_name}` are not in the file: {shown(misfit.keys)}",
        key=misfit.keys[0],
        help=help_,
        data=data(misfit),
    )
