"""Where each method's table is; only the one that is asked for is imported."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from loradoctor.checkpoint.methods.table import Table

_WHERE = {
    "low_rank": "LORA ADALORA",
    "hadamard": "LOHA LOKR HIRA",
    "projected": "VERA PVERA RANDLORA TINYLORA UNILORA VBLORA FROD",
    "spectral": "FOURIERFT WAVEFT C3A",
    "orthogonal": "OFT BOFT HRA PSOFT ROAD",
    "additive": "MISS BONE GRALORA DEFT DELORA GLORA OSF ADAMSS PEANUT",
    "sparse": "SHIRA SUPERTUNING",
    "vectors": "IA3 LN_TUNING BEFT TRAINABLE_TOKENS",
    "routed": "POLY LILY SHADOW XLORA",
    "prompts": "PROMPT_TUNING P_TUNING PREFIX_TUNING CPT CARTRIDGE MULTITASK_PROMPT_TUNING ADAPTION_PROMPT",
}
_FILE = {peft_type: file for file, types in _WHERE.items() for peft_type in types.split()}
_EMPTY = Table()


@cache
def table_of(peft_type: str) -> Table:
    """The table of a method; an empty one for a name that is no method's."""
    file = _FILE.get(peft_type)
    table: Table = getattr(import_module(f"loradoctor.checkpoint.methods.{file}"), peft_type) if file else _EMPTY
    return table
