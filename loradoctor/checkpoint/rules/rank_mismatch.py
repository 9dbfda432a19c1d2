"""LD611: the tensors have another rank than the config says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
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
    """The tensors have another rank than `r` and `rank_pattern` say.

    PEFT builds the layers with the config's rank and then stops with a size mismatch, or, with `ignore_mismatched_sizes`, leaves
    them untrained. A lost `rank_pattern`, an `r` edited by hand and a config copied from another run are the usual reasons.

    The shapes tell the truth: `lora_A` is (rank, in), `lora_B` is (out, rank). Set `r` and `rank_pattern` accordingly.
    """
    config = checkpoint.comparable
    if config is None or config.get("target_parameters") or config.get("use_bdlora"):
        # Fused experts stack their ranks in one tensor and block-diagonal halves are narrower: only the base model knows by how much.
        return
    groups: dict[tuple[Rank, int | None, int | None], list[str]] = defaultdict(list)
    for module, roles in checkpoint.by_module.items():
        pair, rank = halves(roles), expected_rank(config, module)
        if pair is None or rank is None:
            continue
        infos = [checkpoint.tensors[k.name] if k is not None else None for k in pair]
        if any(i is not None and 0 in i.shape for i in infos):
            continue  # LD508
        if turned(config, module, roles, checkpoint.tensors):
            continue  # LD609
        a, b = found_ranks(*infos)
        e = roles.get("lora_E")
        if e is not None and checkpoint.tensors[e.name].shape[:1] != (rank.value,) and a == b == rank.value:
            b = next(iter(checkpoint.tensors[e.name].shape), None)
        if a not in (None, rank.value) or b not in (None, rank.value):
            groups[rank, a, b].append(module)
    for (rank, a, b), modules in groups.items():
        yield _finding(checkpoint, rank, a, b, modules)


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
