"""LD410."""

from __future__ import annotations

import math
from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.fitting import fittings, listed, written
from loradoctor.lint.flow.values import NONE, Table
from loradoctor.lint.libraries.architectures import EXPRESSION
from loradoctor.lint.module import Arrival, Module, Site, literal
from loradoctor.rule import rule

_DEFAULT_ALPHA = 8
_FILLS = frozenset({"set_peft_model_state_dict", "load_state_dict"})
"""What gives the adapter its values afterwards, whatever it began with."""
_SMALL, _LARGE = 0.5, 8.0
"""A scaling at which most of a usual learning rate is lost, and one at which training tends to diverge."""


@rule("LD410", Severity.INFO, "CF11", "CF12", "CF14")
def scaling_hint(module: Module) -> Iterator[Finding]:
    """A LoRA configuration says something else about rank and scaling than it seems to.

    The update is multiplied by `lora_alpha / r`, and `lora_alpha` is 8 where it is not given: at rank 64 an eighth of the
    update is left. `use_rslora` divides by the root of `r`, and what was a doubling becomes sixteen times. A pattern of
    ranks, of alphas or of excluded modules that names no adapted module is passed over with a warning at best. With
    `init_lora_weights=False` the adapter begins with noise instead of nothing, which only tests want.

    ```python
    from peft import LoraConfig

    config = LoraConfig(r=64, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig

    config = LoraConfig(r=64, lora_alpha=64, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    ```
    """
    if module.is_test:
        return
    assigned = {store.name for store in module.stores}
    for site in module.calls("peft.LoraConfig"):
        yield from _scaling(module, site, assigned)
        yield from _patterns(module, site)
    for call, arrivals in fittings(module):
        kinds = {f.architecture.name: f.architecture for f in arrivals if f.architecture is not None}
        if len(kinds) != 1 or any(f.architecture is None for f in arrivals):
            continue
        (kind,) = kinds.values()
        excluded = [n for n in listed(arrivals[0].config.get("exclude_modules")) or () if n]
        absent = [n for n in excluded if not kind.may_match(n) and n.rpartition(".")[2] not in module.program.words]
        if absent:
            yield module.finding(
                written(module, call, "exclude_modules", absent[0]),
                f"`{absent[0]}` in `exclude_modules` is no module of `{arrivals[0].base}`",
                help="nothing is excluded by it; the layers of this architecture are called " + ", ".join(f"`{n}`" for n in kind.in_blocks[:8]),
            )


def _scaling(module: Module, site: Site, assigned: set[str]) -> Iterator[Finding]:
    """What is odd about rank, alpha and the first values."""
    left_so = not _FILLS & module.program.words and "init_lora_weights" not in assigned
    if left_so and site.always(lambda a: literal(a.arg("init_lora_weights")) is False):
        yield module.finding(
            written(module, site.node, "init_lora_weights"),
            "with `init_lora_weights=False` the adapter begins with noise",
            help="the model answers differently from its base before the first step; leave the argument out, except in tests",
        )
    if {"lora_alpha", "r", "use_rslora"} & assigned:
        return
    first = site.arrivals[0]
    rank, alpha = _number(first, "r"), _number(first, "lora_alpha")
    root = literal(first.arg("use_rslora")) is True
    if not site.always(lambda a: (_number(a, "r"), _number(a, "lora_alpha")) == (rank, alpha)) or rank is None or rank < 1:
        return
    divisor = math.sqrt(rank) if root else rank
    if first.arg("lora_alpha") is None and _DEFAULT_ALPHA / divisor < _SMALL and not root:
        yield module.finding(
            written(module, site.node, "r"),
            f"`lora_alpha` is not given: at rank {rank:g} the update is scaled by {_DEFAULT_ALPHA}/{rank:g} = {_DEFAULT_ALPHA / divisor:.3g}",
            help="its default is 8 whatever the rank, and the adapter learns slowly; say `lora_alpha`, once or twice the rank is usual",
        )
    elif alpha == 0:
        yield module.finding(
            written(module, site.node, "lora_alpha"),
            "with `lora_alpha=0` the update is multiplied by zero",
            help="the adapter has no effect and no gradient: nothing is learnt",
        )
    elif root and alpha is not None and alpha / divisor >= _LARGE:
        yield module.finding(
            written(module, site.node, "lora_alpha"),
            f"with `use_rslora` the update is scaled by {alpha:g}/√{rank:g} = {alpha / divisor:.3g}",
            help="rank-stabilized LoRA divides by the root of the rank, and an alpha that was chosen for `lora_alpha / r` is too large for it",
        )


def _patterns(module: Module, site: Site) -> Iterator[Finding]:
    """Keys of `rank_pattern` and `alpha_pattern` that end in no name of `target_modules`."""
    for field in ("rank_pattern", "alpha_pattern"):
        unmatched = [_unmatched(a, field) for a in site.arrivals]
        if unmatched and all(unmatched):
            key = unmatched[0][0]
            yield module.finding(
                written(module, site.node, field),
                f"`{key}` in `{field}` is none of the `target_modules`",
                help="no adapted module is called so, and the pattern has no effect; name one of the target modules, or add this one to them",
            )


def _unmatched(arrival: Arrival, field: str) -> list[str]:
    table, targets = arrival.arg(field), listed(arrival.arg("target_modules"))
    parameters = arrival.arg("target_parameters")
    if not isinstance(table, Table) or not targets or any(t is None or EXPRESSION.search(t) for t in targets) or parameters not in (None, NONE):
        return []
    ends = {t.rpartition(".")[2] for t in targets if t}
    keys = [k for k, _ in table.items if isinstance(k, str)]
    return [k for k in keys if not EXPRESSION.search(k.lstrip("^")) and k.lstrip("^").rpartition(".")[2] not in ends]


def _number(arrival: Arrival, name: str) -> float | None:
    value = arrival.arg(name)
    number = literal(value) if value not in (None, NONE) else None
    return float(number) if isinstance(number, (int, float)) and not isinstance(number, bool) else None
