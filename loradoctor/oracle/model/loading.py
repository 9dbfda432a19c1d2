"""What `from_pretrained` makes of the base's files, one parameter at a time: renamed, fused or split, and cast."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..files.weights import BaseWeights, WeightsError, renamer


@dataclass
class Fusion:
    """Stored tensors that transformers makes parameters of together, by its own converter."""

    converter: Any
    first: str
    """the model's name that the converter is called with"""
    members: list[tuple[str, str]] = field(default_factory=list)
    """(pattern of the converter, stored name), in the order of the checkpoint"""
    names: tuple[str, ...] = ()
    """the parameters it makes"""


class Loading:
    """The base's tensors by the model's names. Raises :class:`WeightsError` when a file cannot be read."""

    def __init__(self, weights: BaseWeights, model: Any, dtypes: Mapping[str, torch.dtype]) -> None:
        """``dtypes``: what every floating parameter is loaded as, by the model's names."""
        self.weights = weights
        self.dtypes = dtypes
        self._model = model
        self._direct: dict[str, str] = {}
        self._fused: dict[str, Fusion] = {}
        if not _follow(self, weights, model):
            self._follow_names(weights, model)

    def __contains__(self, name: str) -> bool:
        return name in self._direct or name in self._fused

    def stored_as(self, name: str) -> str | None:
        """The stored name of a parameter that is stored as it is, None for one that is made of others or not there."""
        return self._direct.get(name)

    def stored_for(self, name: str) -> tuple[str, ...]:
        """The stored tensors that the parameter ``name`` is made of."""
        if name in self._direct:
            return (self._direct[name],)
        return tuple(stored for _, stored in self._fused[name].members) if name in self._fused else ()

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The parameters called ``names`` as the model would hold them. Raises KeyError for one that is not stored."""
        found: dict[str, torch.Tensor] = {}
        for name in names:
            if name in found:
                continue
            if name in self._direct:
                found[name] = self._cast(self.weights.read(self._direct[name]), name)
            else:
                found.update(self._fuse(self._fused[name]))
        return found

    def stacked(self, name: str) -> int | None:
        """How many experts the parameter ``name`` stacks, None when it is made otherwise."""
        fusion = self._fused.get(name)
        counts = set(Counter(pattern for pattern, _ in fusion.members).values()) if fusion is not None and _stacks(fusion) else set()
        return counts.pop() if len(counts) == 1 else None

    def experts(self, name: str, part: slice) -> torch.Tensor:
        """Some of the experts of a parameter that stacks them, without reading the others."""
        fusion = self._fused[name]
        converter = copy.deepcopy(fusion.converter)
        for wanted in dict.fromkeys(pattern for pattern, _ in fusion.members):
            for pattern, stored in [m for m in fusion.members if m[0] == wanted][part]:
                converter.add_tensor(fusion.first, stored, pattern, self._cast(self.weights.read(stored), fusion.first))
        return converted(converter, fusion.first, self._model)[name]

    def find(self, names: Iterable[str], shape: torch.Size) -> torch.Tensor | None:
        """The parameter known under one of ``names``, None when nothing of this shape is stored for it."""
        for name in names:
            if name in self:
                tensor = self.read((name,))[name]
                return tensor if tensor.shape == shape else None
        return None

    def shape(self, name: str) -> torch.Size | None:
        """The stored shape of a parameter that is stored as it is."""
        stored = self._direct.get(name)
        return None if stored is None else self.weights.info(stored).shape

    def direct(self, name: str, stored: str) -> None:
        """Learn that ``stored`` is the parameter ``name``; the first to claim it is right, as for transformers."""
        self._direct.setdefault(name, stored)

    def fuse(self, fusion: Fusion) -> None:
        """Learn what ``fusion`` makes."""
        self._fused.update(dict.fromkeys(fusion.names, fusion))

    def tie(self, names: Sequence[str]) -> None:
        """Learn that the base has one parameter under all of ``names``: what is stored for one is right for the others."""
        there = next((self._direct[name] for name in names if name in self._direct), None)
        if there is not None:
            self._direct.update({name: there for name in names if name not in self})

    def _cast(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        wanted = self.dtypes.get(name)
        return tensor.to(wanted) if wanted is not None and tensor.dtype.is_floating_point else tensor

    def _fuse(self, fusion: Fusion) -> dict[str, torch.Tensor]:
        converter = copy.deepcopy(fusion.converter)
        for pattern, stored in fusion.members:
            converter.add_tensor(fusion.first, stored, pattern, self._cast(self.weights.read(stored), fusion.first))
        return converted(converter, fusion.first, self._model)

    def _follow_names(self, weights: BaseWeights, model: Any) -> None:
        # transformers 4: every stored tensor is a parameter, under its own or a newer name.
        rename, prefix = renamer(model), getattr(model, "base_model_prefix", "")
        modern = getattr(model, "_fix_state_dict_key_on_load", None)
        known = set(model.state_dict())
        for stored in weights.names():
            renamed = rename(stored if modern is None else modern(stored)[0])
            for candidate in (renamed, f"{prefix}.{renamed}", renamed.removeprefix(f"{prefix}.")):
                if candidate in known:
                    self.direct(candidate, stored)
                    break


def _stacks(fusion: Fusion) -> bool:
    # One tensor for each expert, stacked first; nothing that follows touches the dimension of the experts.
    first, *rest = fusion.converter.operations
    if type(first).__name__ != "MergeModulelist" or first.dim != 0:
        return False
    dims = [d for op in rest for d in (getattr(op, "dim", None), getattr(op, "dim0", None), getattr(op, "dim1", None)) if d is not None]
    return all(type(op).__name__ in ("Concatenate", "Transpose") for op in rest) and 0 not in dims


def converted(converter: Any, first: str, model: Any) -> dict[str, torch.Tensor]:
    """What a converter of transformers makes of the tensors it was given, by the model's names. Raises :class:`WeightsError`."""
    try:
        made = converter.convert(first, model=model, config=model.config)
    except Exception as error:
        said = str(error).strip().splitlines()
        raise WeightsError(f"transformers cannot make `{first}` of what is stored: {type(error).__name__}: {said[0] if said else ''}") from error
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def _follow(loading: Loading, weights: BaseWeights, model: Any) -> bool:
    """As transformers 5 assigns stored tensors (core_model_loading.py: convert_and_load_state_dict_in_model); False before 5."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
    except ImportError:
        return False
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    known, prefix = model.state_dict(), model.base_model_prefix
    fusions: dict[str, Fusion] = {}
    for stored in sorted(weights.names(), key=dot_natural_key):
        name, pattern = rename_source_key(stored, renamings, converters, prefix, known)
        if name not in known and stored in known:
            name, pattern = rename_source_key(stored, [], [], prefix, known)
        if name not in known:
            continue
        if pattern is None:
            loading.direct(name, stored)
        else:
            fusions.setdefault(name, Fusion(by_pattern[pattern], name)).members.append((pattern, stored))
    # What was used for loading is undone for saving.
    model._weight_conversions = [entry for entry in mapping if entry.was_used()]  # noqa: SLF001 -- transformers' own place for it
    for fusion in fusions.values():
        fusion.names = tuple(_made_by(fusion, weights, model))
        loading.fuse(fusion)
    return True


def _made_by(fusion: Fusion, weights: BaseWeights, model: Any) -> dict[str, torch.Tensor]:
    converter = copy.deepcopy(fusion.converter)
    for pattern, stored in fusion.members:
        info = weights.info(stored)
        converter.add_tensor(fusion.first, stored, pattern, torch.empty(info.shape, dtype=info.dtype, device="meta"))
    return converted(converter, fusion.first, model)


def declared_dtype(config: Any, weights: BaseWeights) -> torch.dtype:
    """What `dtype="auto"` means: the config's word, or the first floating tensor's dtype."""
    for field_name in ("dtype", "torch_dtype"):
        named = getattr(config, field_name, None)
        named = getattr(torch, named, None) if isinstance(named, str) else named
        if isinstance(named, torch.dtype):
            return named
    return next(iter(weights.dtypes()), torch.float32)


def dtypes_loaded(model: nn.Module, built: torch.dtype, wanted: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype that `from_pretrained(dtype=wanted)` gives every floating parameter and buffer, by name.

    ``built`` is the default the model was made with: what differs from it is a decision of the model's code and stays.
    """
    single = _kept_single(model, wanted)
    found: dict[str, torch.dtype] = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
        if tensor.dtype.is_floating_point:
            own = wanted if tensor.dtype == built else tensor.dtype
            found[name] = torch.float32 if single is not None and single.search(name) else own
    return found


def _kept_single(model: Any, wanted: torch.dtype) -> re.Pattern[str] | None:
    """What transformers keeps in float32 whatever is asked for."""
    if hasattr(model, "_get_dtype_plan"):
        plan = list(model._get_dtype_plan(wanted))  # noqa: SLF001
        return re.compile("|".join(glob.replace("*", r".*") for glob in plan)) if plan else None
    modules: list[str] = []
    if wanted == torch.float16:
        modules += getattr(model, "_keep_in_fp32_modules", None) or []
    if wanted in (torch.float16, torch.bfloat16):
        modules += getattr(model, "_keep_in_fp32_modules_strict", None) or []
    return re.compile("|".join(rf"((^|\.){module}($|\.))" for module in modules)) if modules else None
