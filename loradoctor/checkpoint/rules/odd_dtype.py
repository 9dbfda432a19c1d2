"""LD705: the factors are stored in a dtype that PEFT only casts."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.methods.lora import halves
from loradoctor.checkpoint.wording import counted, evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_USUAL = frozenset({"F32", "F16", "BF16"})


@rule("LD705", Severity.WARNING, "T5")
def odd_dtype(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The factors are integers, 8-bit floats, doubles, or A and B differ in dtype.

    PEFT copies whatever is stored into its float32 parameters. Integers are quantized values without their scale, and 8-bit floats
    have lost most of their precision: the adapter is not the trained one. Halves of two dtypes were converted one by one. Doubles
    only take twice the space and are reported as information.

    Save from the running model in float32, float16 or bfloat16.
    """
    if not checkpoint.tensor_method.low_rank or checkpoint.foreign is not None:
        return
    groups: dict[tuple[str, Severity], dict[str, str]] = {}
    for roles in checkpoint.by_module.values():
        pair = [k for k in halves(roles) or () if k is not None]
        dtypes = [checkpoint.tensors[k.name].dtype for k in pair]
        for key, dtype in zip(pair, dtypes, strict=True):
            if dtype not in _USUAL:
                kind = ("double", Severity.INFO) if dtype == "F64" else ("quantized", Severity.WARNING)
                groups.setdefault(kind, {})[key.name] = dtype
        if len(set(dtypes)) > 1 and _USUAL.issuperset(dtypes):
            groups.setdefault(("mixed", Severity.WARNING), {})[pair[0].name] = " and ".join(dtypes)
    for (cause, severity), names in groups.items():
        yield checkpoint.finding(
            f"{counted(len(names), 'tensor')} stored as {listed(dict.fromkeys(names.values()))}: {listed(names)}",
            key=next(iter(names)),
            severity=severity,
            help=_HELP[cause],
            data=evidence(cause, list(names), dtypes=sorted(set(names.values()))),
        )


_HELP = {
    "double": "twice the size for nothing: PEFT casts them to float32 on load",
    "quantized": "PEFT copies the stored numbers into float32 without any scale, so precision or meaning is lost: save from the running model",
    "mixed": "A and B of one module were converted one by one, and one of them lost precision: save both in the same dtype",
}
