"""LD611: the tensors have another rank, or other shapes, than the config and each other say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Set

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.fitting import Fit
from loradoctor.checkpoint.methods.lora import Rank, expected_rank, found_ranks, halves, turned
from loradoctor.checkpoint.wording import counted, evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_SOURCE = {
    "r": "`r` says {}",
    "rank_pattern": "`rank_pattern` says {}",
    "init_r": "`init_r` says {}",
    "default": "`r` is missing, so PEFT takes {}",
}


@rule("LD611", Severity.ERROR, "C1")
def rank_mismatch(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The tensors have another rank than `r` and `rank_pattern` say, or shapes that do not fit together.

    PEFT builds the layers with the config's rank and then stops with a size mismatch, or, with `ignore_mismatched_sizes`, leaves
    them untrained. A lost `rank_pattern`, an `r` edited by hand and a config copied from another run are the usual reasons.

    The shapes tell the truth: `lora_A` is (rank, in), `lora_B` is (out, rank). Set `r` and `rank_pattern` accordingly. Other methods
    have other sizes in their config, `block_size` or `n_frequency` for instance, and the finding names the one that is wrong.
    """
    config = checkpoint.comparable
    if config is None:
        return
    told: set[str] = set()
    # Fused experts stack their ranks in one tensor and block-diagonal halves are narrower: there the table of shapes decides alone.
    if checkpoint.method.low_rank and not config.get("target_parameters") and not config.get("use_bdlora"):
        told.update(m for m, roles in checkpoint.by_module.items() if turned(config, m, roles, checkpoint.tensors))  # LD609
        for modules, finding in _ranks(checkpoint, config, told):
            told.update(modules)
            yield finding
    yield from _shapes(checkpoint, told)


def _ranks(checkpoint: Checkpoint, config: AdapterConfig, told: Set[str]) -> Iterator[tuple[list[str], Finding]]:
    groups: dict[tuple[Rank, int | None, int | None], list[str]] = defaultdict(list)
    for module, roles in checkpoint.by_module.items():
        pair, rank = halves(roles), expected_rank(config, module)
        if pair is None or rank is None or module in told:
            continue
        infos = [checkpoint.tensors[k.name] if k is not None else None for k in pair]
        if any(i is not None and 0 in i.shape for i in infos):
            continue  # LD508
        a, b = found_ranks(*infos)
        e = roles.get("lora_E")
        if e is not None and checkpoint.tensors[e.name].shape[:1] != (rank.value,) and a == b == rank.value:
            b = next(iter(checkpoint.tensors[e.name].shape), None)
        if a not in (None, rank.value) or b not in (None, rank.value):
            groups[rank, a, b].append(module)
    for (rank, a, b), modules in groups.items():
        yield modules, _finding(checkpoint, rank, a, b, modules)


def _finding(checkpoint: Checkpoint, rank: Rank, a: int | None, b: int | None, modules: list[str]) -> Finding:
    pair = [k for k in halves(checkpoint.by_module[modules[0]]) or () if k is not None]
    if a is not None and b is not None and a != b:
        shapes = " and ".join(f"{list(checkpoint.tensors[k.name].shape)}" for k in pair)
        found = f"`lora_A` and `lora_B` do not fit each other ({shapes})"
        way_out = "the halves come from different adapters: `lora_A` is (rank, in), `lora_B` (out, rank)"
    else:
        found = f"the tensors have rank {a if a is not None else b}"
        way_out = f"set `r` to {a if a is not None else b}, or give these modules theirs in `rank_pattern`"
    return checkpoint.finding(
        f"{_SOURCE[rank.source].format(rank.value)}, but in {counted(len(modules), 'module')} {found}: {listed(modules)}",
        key=pair[0].name,
        help=f"PEFT stops with a size mismatch: {way_out}",
        data=evidence("rank", modules, expected=rank.value, found=[a, b]),
    )


def _shapes(checkpoint: Checkpoint, told: set[str]) -> Iterator[Finding]:
    """What the method's table of shapes says; modules in ``told`` and factors that are only turned round are others' to report."""
    found = checkpoint.structure
    groups: dict[tuple[str, str, object], list[str]] = defaultdict(list)
    whole = {"": found.shared, **found.modules}
    for module, fit in whole.items():
        if module in told or (fit.turned and not fit.problems) or _empty(fit):
            continue
        for reason in _reasons(fit):
            groups[reason].append(module)
    for (what, field, role), modules in groups.items():
        named = [m for m in modules if m]
        where = f", in {counted(len(named), 'module')}: {listed(named)}" if named else ""
        key = _key(checkpoint, modules[0], str(role))
        yield checkpoint.finding(
            f"{what}{where}",
            key=key,
            help="PEFT stops with a size mismatch, or loads what it was not trained for: "
            + (f"set `{field}` as it was in training" if field else "the tensors come from different adapters, or one was changed"),
            data=evidence("shape", named or [what], field=field or None),
        )


def _reasons(fit: Fit) -> Iterator[tuple[str, str, object]]:
    """What is wrong in words, the config field to correct, and the role where it shows."""
    if fit.wrong is not None:
        wrong = fit.wrong
        yield f"`{wrong.source}` says {wrong.value}, but the tensors have {wrong.actual}", wrong.source, fit.clashes[0].role
    else:
        for clash in fit.clashes[:1]:
            yield f"`{clash.role}` is {list(clash.found)}, where the config and the other tensors ask for {clash.wanted}", "", clash.role
    for problem in fit.problems:
        yield problem.what, problem.field, ""


def _empty(fit: Fit) -> bool:
    """Whether a tensor is empty, which LD508 tells."""
    return any(0 in clash.found for clash in fit.clashes)


def _key(checkpoint: Checkpoint, module: str, role: str) -> str:
    places = [module] if module else ["", "base_model"]
    roles = [r for place in places for r in checkpoint.by_module.get(place, {}).items()]
    return next((key.name for name, key in roles if name == role), roles[0][1].name if roles else next(iter(checkpoint.tensors)))
