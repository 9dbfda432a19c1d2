"""FourierFT, WaveFT and C3A: coefficients in another basis.

Shapes: `update_layer` in peft/tuners/{fourierft,waveft,c3a}/layer.py. Which frequencies are meant follows from `random_loc_seed`.
"""

from __future__ import annotations

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.dims import IN, OUT, name
from loradoctor.checkpoint.methods.table import Layout, Parameter, Roles, Table, each, part

FOURIERFT = Table(
    given=(Parameter("n", "n_frequency", 1000, pattern="n_frequency_pattern"),),
    layouts=(Layout(each(fourierft_spectrum=part(name("n")))),),
)


def _waveft(config: AdapterConfig, _: Roles) -> tuple[Layout, ...]:
    """With `proportional_parameters` the number of coefficients follows from the size of the module, which the file does not tell."""
    count = "any" if config.flag("proportional_parameters") else "n"
    return (Layout(each(waveft_spectrum=part(name(count)))),)


WAVEFT = Table(given=(Parameter("n", "n_frequency", 2592, pattern="n_frequency_pattern"),), layouts_for=_waveft)

_B = name("block")

C3A = Table(
    given=(Parameter("block", "block_size", 256, pattern="block_size_pattern"),),
    layouts=(Layout(each(c3a_kernel=part(OUT / _B, IN / _B, _B))),),
    dense=True,
)
