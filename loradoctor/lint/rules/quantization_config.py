"""LD412."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.values import Known
from loradoctor.lint.module import Arrival, Module, Site, literal
from loradoctor.rule import rule

_KINDS = ("nf4", "fp4")
_SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "f16": "float16", "f32": "float32"}
_KNOWN = (
    "load_in_8bit",
    "load_in_4bit",
    "llm_int8_threshold",
    "llm_int8_skip_modules",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_quant_storage",
)
_MISSPELLED = {
    "bnb_4bit_compute_type": "bnb_4bit_compute_dtype",
    "bnb_4bit_dtype": "bnb_4bit_compute_dtype",
    "bnb_4bit_quantization_type": "bnb_4bit_quant_type",
    "bnb_4bit_double_quant": "bnb_4bit_use_double_quant",
    "bnb_4bit_use_double_quantization": "bnb_4bit_use_double_quant",
    "use_double_quant": "bnb_4bit_use_double_quant",
}


_OTHER_KERNELS = frozenset({"bigdl", "ipex_llm"})
"""Libraries that read the configuration themselves and have 4-bit types of their own."""


@rule("LD412", Severity.ERROR, "QT4")
def quantization_config(module: Module) -> Iterator[Finding]:
    """A `BitsAndBytesConfig` holds what bitsandbytes refuses, or a setting it does not know and drops.

    4-bit and 8-bit exclude each other. Types are torch's names, `bfloat16` and not `bf16`. The quantization is `nf4` or
    `fp4`, and any other name is found out only when the weights are converted. Unknown names are dropped without a word, so
    the default stays: a compute type of float32, which is slow, and no double quantization.

    ```python
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bf16")
    ```
    What to write instead:
    ```python
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16")
    ```
    """
    if module.is_test or not _OTHER_KERNELS.isdisjoint(name.partition(".")[0] for name in module.imports):
        return
    for site in module.calls("transformers.BitsAndBytesConfig"):
        if site.sometimes(_both):
            yield site.finding(
                "`load_in_4bit` and `load_in_8bit` are both True",
                help="the configuration raises a `ValueError`; choose one of them",
            )
        yield from _types(module, site)
        yield from _dropped(module, site)


def _both(arrival: Arrival) -> bool:
    return literal(arrival.arg("load_in_4bit")) is True and literal(arrival.arg("load_in_8bit")) is True


def _types(module: Module, site: Site) -> Iterator[Finding]:
    for name in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
        short = next((v for a in site.arrivals if isinstance(v := literal(a.arg(name)), str) and v in _SHORT), None)
        arg = site.argument(name)
        if short is None or arg is None:
            continue
        yield module.finding(
            arg.value,
            f"`{short}` is no type of torch",
            help=f'the configuration raises; write `"{_SHORT[short]}"`',
            fix=_replaced(module, arg, _SHORT[short]),
        )
    kinds = [v.value for a in site.arrivals if isinstance(v := a.arg("bnb_4bit_quant_type"), Known)]
    kind = next((k for k in kinds if isinstance(k, str) and k not in _KINDS), None)
    arg = site.argument("bnb_4bit_quant_type")
    if kind is not None and arg is not None:
        lower = kind.lower()
        yield module.finding(
            arg.value,
            f"`{kind}` is no 4-bit type of bitsandbytes",
            help='loading the model raises when the weights are converted; write `"nf4"`, or `"fp4"`',
            fix=_replaced(module, arg, lower) if lower in _KINDS else None,
        )


def _replaced(module: Module, arg: ir.Arg, text: str) -> Fix | None:
    if not isinstance(arg.value, ir.Const):
        return None
    return Fix(f'write `"{text}"`', (module.replace(arg.value, f'"{text}"'),))


def _dropped(module: Module, site: Site) -> Iterator[Finding]:
    taken = {arg.name for arg in site.node.args}
    for arg in site.node.args:
        meant = _meant(arg.name or "")
        if meant is None:
            continue
        edits = (module.replace(arg, f"{meant}={module.text(arg.value)}"),)
        yield module.finding(
            arg.value,
            f"`BitsAndBytesConfig` does not know `{arg.name}` and drops it",
            severity=Severity.WARNING,
            help=f"the default stays; the setting is called `{meant}`",
            fix=Fix(f"write `{meant}`", edits, safe=False) if meant not in taken else None,
        )


def _meant(name: str) -> str | None:
    """The setting that an unknown name stands for; none where the name is known, or like no setting."""
    if name in _KNOWN:
        return None
    return _MISSPELLED.get(name) or next(iter(get_close_matches(name, _KNOWN, n=1, cutoff=0.85)), None)
