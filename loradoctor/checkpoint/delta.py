"""Which tensors make up the update ΔW of each module, how they are scaled, and everything their values say, in one pass."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loradoctor.checkpoint.methods.lora import Rank, expected_rank, halves, scaling_of
from loradoctor.checkpoint.spectrum import Cores, Spectrum
from loradoctor.checkpoint.target_modules import pattern_key
from loradoctor.checkpoint.values import Factor, TensorStats, numbers, readable, scan

if TYPE_CHECKING:
    from loradoctor.checkpoint.adapter_config import AdapterConfig
    from loradoctor.checkpoint.checkpoint import Checkpoint
    from loradoctor.checkpoint.key import Key
    from loradoctor.checkpoint.values.bits import Bits

LARGEST_RANK = 256
"""The work per element grows with the rank: here a core reads 0.2 GB/s, against 1 GB/s at rank 16. Above, only tensors are measured."""
LARGEST_CORES = 1 << 22
"""Numbers in the r x r matrices of all experts of one module: 32 MB, which waits until both halves are read."""
_WIDEST = 1 << 16
"""Columns of a half with experts: one row of them has to fit the buffers."""
_BEYOND = 1e150
"""The square of a singular value from here on is beyond double precision."""
_DIAGONALS = ("lora_E", "lora_diag")
"""What AdaLoRA and KaSA put between the halves, one number per direction."""


@dataclass(frozen=True, slots=True)
class Update:
    """ΔW = scaling · B diag(d) A of one module, by the names of its tensors; ``diagonal`` is None where there is no d.

    With ``experts`` above one the module's parameters have an axis of experts, and each has its own rank x rank product.
    """

    module: str
    a: str
    b: str
    diagonal: str | None
    rank: int
    experts: int
    scaling: float
    shape: tuple[int, int]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all its tensors."""
        return (self.a, self.b) if self.diagonal is None else (self.a, self.b, self.diagonal)

    @property
    def factors(self) -> dict[str, Factor]:
        """How each tensor is to be multiplied with itself."""
        found = {self.a: Factor(experts=self.experts), self.b: Factor(columns=True, experts=self.experts)}
        return found if self.diagonal is None else {**found, self.diagonal: Factor()}


@dataclass(frozen=True, slots=True)
class Measured:
    """What one pass found: statistics per tensor (in the order of the file's header) and spectra per module or expert."""

    stats: Mapping[str, TensorStats] = field(default_factory=dict)
    spectra: tuple[Spectrum, ...] = ()


def updates(checkpoint: Checkpoint) -> tuple[Update, ...]:
    """Every module whose ΔW is a plain low-rank product that the config scales: LoRA, its close variants, and AdaLoRA.

    DoRA's is the update of its direction: what its magnitude makes of it depends on the base weight. QALoRA's A acts on averaged inputs
    and block-diagonal halves are stored without their zeros; both are left out, as is what has unfitting halves.
    """
    config = checkpoint.comparable
    if config is None or config.peft_type not in ("LORA", "ADALORA") or config.flag("use_qalora") or config.flag("use_bdlora"):
        return ()
    found = (_update(checkpoint, config, module, roles) for module, roles in checkpoint.by_module.items())
    return tuple(u for u in found if u is not None)


def measure(checkpoint: Checkpoint) -> Measured:
    """Read every tensor once, the parts of a module together. Raises OSError."""
    if checkpoint.weights is None or not checkpoint.tensors:
        return Measured()
    planned = updates(checkpoint)
    factors = {name: factor for u in planned for name, factor in u.factors.items()}
    owners = {name: u for u in planned for name in u.tensors}
    stats: dict[str, TensorStats] = {}
    spectra: dict[tuple[str, int], Spectrum] = {}
    cores: Cores[tuple[Update, int]] = Cores()
    waiting: dict[str, Bits | None] = {}
    for name, tensor, gram in scan(checkpoint.weights, checkpoint.tensors, _order(checkpoint, owners), factors):
        stats[name] = tensor
        if (update := owners.get(name)) is None:
            continue
        waiting[name] = gram
        if all(n in waiting for n in update.tensors):
            grams = [waiting.pop(n) for n in update.tensors]
            for expert, left, right in _cores(update, grams):
                _keep(spectra, cores.add((update, expert), left, right))
    _keep(spectra, cores.rest())
    order = {u.module: i for i, u in enumerate(planned)}
    return Measured(
        {name: stats[name] for name in checkpoint.tensors if name in stats},
        tuple(spectra[key] for key in sorted(spectra, key=lambda k: (order[k[0]], k[1]))),
    )


def _update(checkpoint: Checkpoint, config: AdapterConfig, module: str, roles: Mapping[str, Key]) -> Update | None:
    pair = halves(roles)
    if pair is None or pair[0] is None or pair[1] is None:
        return None
    a, b = (checkpoint.tensors[key.name] for key in pair if key is not None)
    if len(a.shape) < 2 or len(b.shape) < 2 or not all(readable(i) and i.count for i in (a, b)):
        return None
    rows, columns = a.shape[0], b.shape[1]
    if rows != columns or math.prod(b.shape[2:]) != 1:
        return None  # a grouped convolution, an exchanged or a foreign half
    wanted = expected_rank(config, module)
    experts = rows // wanted.value if config.get("target_parameters") and wanted is not None and rows % wanted.value == 0 else 1
    scaling = _scaling(config, module, wanted)
    rank = rows // experts
    if scaling is None or rank > LARGEST_RANK or experts * rank * rank > LARGEST_CORES or rows > _WIDEST:
        return None
    if experts > 1 and (a.strides or b.strides):
        return None
    diagonal = next((roles[role].name for role in _DIAGONALS if role in roles), None)
    if diagonal is not None and (checkpoint.tensors[diagonal].shape[:1] != (rows,) or not readable(checkpoint.tensors[diagonal])):
        return None
    shape = (b.shape[0], a.count // rows)
    return Update(module, pair[0].name, pair[1].name, diagonal, rank, experts, scaling, shape)


def _scaling(config: AdapterConfig, module: str, rank: Rank | None) -> float | None:
    """What the product is multiplied by; None when the config is too damaged to say."""
    if config.peft_type == "ADALORA":
        # `ranknum` stays at the rank that training started with, also after pruning (peft/tuners/adalora/model.py).
        start, alpha = config.get("init_r", 12), config.alpha
        usable = isinstance(start, int) and start > 0 and alpha is not None and alpha > 0
        return alpha / (start + 1e-5) if usable and alpha is not None else None
    alphas = config.pattern("alpha_pattern")
    try:
        key = pattern_key(alphas, module)
    except re.error:
        return None
    found = scaling_of(config, rank.value, alphas[key] if key is not None else None) if rank is not None else None
    return found if found is not None and math.isfinite(found) else None


def _order(checkpoint: Checkpoint, owners: Mapping[str, Update]) -> Iterable[str]:
    """File order, except that the tensors of a module follow its first: so only one module's products wait at a time."""
    done: set[str] = set()
    tensors = checkpoint.tensors
    for name in sorted(tensors, key=lambda n: tensors[n].start):
        if name not in done:
            group = owners[name].tensors if name in owners else (name,)
            done.update(group)
            yield from sorted(group, key=lambda n: tensors[n].start)


def _cores(update: Update, grams: list[Bits | None]) -> Iterable[tuple[int, Bits, Bits]]:
    right, left = grams[0], grams[1]
    import numpy as np

    if right is None or left is None:
        return
    if update.diagonal is not None:
        if grams[2] is None:
            return
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            right = right * grams[2]  # (diag(d) A)(diag(d) A)ᵀ = ddᵀ ∘ AAᵀ
        if not np.isfinite(right).all():
            return
    yield from ((expert, left[expert], right[expert]) for expert in range(update.experts))


def _keep(spectra: dict[tuple[str, int], Spectrum], solved: Iterable[tuple[tuple[Update, int], Bits]]) -> None:
    import numpy as np

    for (update, expert), values in solved:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            few = values[: min(update.rank, *update.shape)] * abs(update.scaling)
        if few[0] < _BEYOND:
            number = expert if update.experts > 1 else None
            spectra[update.module, expert] = Spectrum(update.module, number, update.rank, update.shape, few)


def exceeds(checkpoint: Checkpoint, update: Update, limit: float) -> bool:
    """Whether an element of ΔW is larger than ``limit``; the product is formed in small blocks. Raises OSError.

    Experts and diagonals are not multiplied out: there only the mean element, which the norm gives, is held against the limit.
    """
    import numpy as np

    mean = max((s.norm for s in checkpoint.spectra() if s.module == update.module), default=0.0) / math.sqrt(math.prod(update.shape))
    if mean > limit:
        return True
    if checkpoint.weights is None or update.experts > 1 or update.diagonal is not None:
        return False
    return any(
        float(np.abs(rows @ columns).max(initial=0.0)) * abs(update.scaling) > limit
        for columns in numbers(checkpoint.weights, checkpoint.tensors[update.a], Factor())
        for rows in numbers(checkpoint.weights, checkpoint.tensors[update.b], Factor(columns=True))
    )
