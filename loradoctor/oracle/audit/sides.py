"""The tensors of base and merged model under one set of names: the model's own, as the installed transformers spells them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch

from ..files.weights import BaseWeights, renamer
from ..model.loading import Loading
from ..model.prepared import Prepared

WRAPPERS = ("base_model.model.", "_orig_mod.", "module.")
"""what `PeftModel`, `torch.compile` and DistributedDataParallel put before every name"""

_INNER = re.compile(r"\.(?:base_layer|_orig_mod)(?=\.)|\.modules_to_save\.\w+(?=\.)")
_PEFT = re.compile(r"(?:^|\.)(?:lora_|base_layer\.|original_module\.|modules_to_save\.|token_adapter\.|ia3_l|oft_|boft_|hada_|lokr_|vera_|"
                   r"trainable_tokens_|randlora_|hra_u|road_|miss_|ln_tuning_layers\.|shira_|fourierft_|c3a_|vblora_)")  # fmt: skip

_OLD_BUFFERS = r"rotary_emb\.inv_freq$|\.attn\.(?:bias|masked_bias)$|\.attention\.(?:bias|masked_bias)$|embeddings\.position_ids$"
"""what older releases saved and none reads: computed from the config"""


@dataclass
class Side:
    """One model's files. ``stored`` maps the model's name of a tensor to the stored one."""

    weights: BaseWeights
    stored: dict[str, str] = field(default_factory=dict)
    leftovers: dict[str, str] = field(default_factory=dict)
    """stored names that no model has, and what put them there: ``adapter`` or ``wrapper``"""
    unknown: list[str] = field(default_factory=list)
    """stored names that mean nothing to the model"""
    made: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """parameters that transformers puts together, as the experts of a layer, and what of; their parts are in ``stored`` too"""
    loading: Loading | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.stored or name in self.made

    def read(self, name: str) -> torch.Tensor:
        """The tensor that the model calls ``name``."""
        if name in self.stored or self.loading is None:
            return self.weights.read(self.stored[name])
        return self.loading.read((name,))[name]

    def shown(self, name: str) -> str:
        """A stored name to show for it."""
        return self.stored[name] if name in self.stored else self.made[name][0]

    def parts(self) -> dict[str, str]:
        """Stored name of every part → the parameter that it is a part of."""
        return {part: name for name, parts in self.made.items() for part in parts}


@dataclass(frozen=True)
class Names:
    """``known`` are the model's names of parameters and buffers, ``alias`` the first name of everything that is tied."""

    known: frozenset[str]
    alias: Mapping[str, str]
    rename: Callable[[str], str]
    prefix: str
    ignored: re.Pattern[str]
    """stored names that transformers passes over without a word"""

    @classmethod
    def of(cls, prepared: Prepared) -> Names:
        """The names of the base that ``prepared`` stands on, as they were before PEFT wrapped it."""
        model = prepared.base.model
        alias = {name: names[0] for names in prepared.base.names.values() for name in names}
        saved = {_INNER.sub("", name) for name in model.state_dict() if not _PEFT.search(_INNER.sub("", name))}
        ignored = "|".join([_OLD_BUFFERS, *(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())])
        prefix = str(getattr(model, "base_model_prefix", ""))
        return cls(frozenset({*alias, *saved}), alias, renamer(model), prefix, re.compile(ignored))

    def name(self, stored: str) -> str:
        """The model's name of a stored tensor; its own, renamed, when the model has none like it."""
        renamed = self.rename(stored)
        for candidate in (stored, renamed, f"{self.prefix}.{renamed}", renamed.removeprefix(f"{self.prefix}.")):
            if candidate in self.known:
                return candidate
        return renamed

    def others(self, name: str) -> Iterable[str]:
        """Every name that is tied to ``name``, itself left out."""
        first = self.alias.get(name)
        return (n for n, f in self.alias.items() if f == first and n != name) if first is not None else ()


def side(weights: BaseWeights, names: Names) -> Side:
    """The tensors of ``weights`` by the model's names."""
    found = Side(weights)
    for stored in weights.names():
        name = names.name(stored)
        bare = stored if name in names.known else unwrapped(stored)
        name = names.name(bare)
        if name not in names.known and _PEFT.search(stored):
            found.leftovers[stored] = "adapter"
            continue
        if bare != stored:
            found.leftovers[stored] = "wrapper"
        if name in found.stored:
            # Two spellings of one tensor: the plain one counts, the other is left over.
            found.leftovers.setdefault(stored, "adapter")
            continue
        found.stored[name] = stored
        if name not in names.known and not names.ignored.search(stored):
            found.unknown.append(stored)
    return found


def put_together(one: Side, names: Names, model: object) -> None:
    """Learn which unknown tensors of ``one`` are parts of a parameter of ``model``, a base without adapter."""
    loading = Loading(one.weights, model, {})
    unknown = set(one.unknown)
    for name in names.known - set(one.stored):
        parts = loading.stored_for(name)
        if parts and unknown.issuperset(parts):
            one.made[name], one.loading = parts, loading
    known = one.parts()
    one.unknown = [stored for stored in one.unknown if stored not in known]


def unwrapped(stored: str) -> str:
    """A stored name without what PEFT, the compiler and data parallelism add."""
    bare = stored
    while wrapper := next((w for w in WRAPPERS if bare.startswith(w)), None):
        bare = bare.removeprefix(wrapper)
    return _INNER.sub("", bare)
