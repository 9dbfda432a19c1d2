"""LD709: two layers have the same tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.wording import evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_LAYER = re.compile(r"\.(\d+)\.")


@rule("LD709", Severity.WARNING, "T6")
def duplicated_layers(checkpoint: Checkpoint) -> Iterator[Finding]:
    """All trained tensors of one layer are byte for byte those of another.

    Two layers start with different random halves and see different gradients, so equal ones were copied: a converter that filled
    a gap with what it had, a merge of shards that took one twice. The layer that was overwritten is lost.

    Go back to the file before the conversion.
    """
    values = checkpoint.values()
    layers: dict[str, dict[str, str]] = defaultdict(dict)
    for key in checkpoint.keys:
        match = _LAYER.search(key.name)
        if key.role.startswith("lora_") and match and key.name in values and values[key.name].count > 1 and not values[key.name].constant:
            layers[match[1]][key.name[: match.start(1)] + "*" + key.name[match.end(1) :]] = key.name
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for layer, names in layers.items():
        if any(".lora_B" in f".{t}" or ".lora_E" in f".{t}" for t in names):
            groups[tuple((t, values[n].absmax, values[n].rms) for t, n in sorted(names.items()))].append(layer)
    copies = [[group[i] for i in _same(checkpoint, [layers[n] for n in group])] for group in groups.values()]
    copies = [numbers for numbers in copies if numbers]
    if copies:
        copied = [name for numbers in copies for n in numbers[1:] for name in layers[n].values()]
        first, more = listed(copies[0], 6), len(copies) - 1
        yield checkpoint.finding(
            f"layers {first} have byte for byte the same tensors{f', and so have {more} more groups of layers' if more > 1 else ''}"
            f"{f', and so have layers {listed(copies[1], 6)}' if more == 1 else ''}",
            key=copied[0],
            help="one was copied over the others, and what they had learned is gone: go back to the file before the conversion",
            data=evidence("copied", copied, layers=[int(n) for n in copies[0]], groups=[[int(n) for n in c] for c in copies]),
        )


def _same(checkpoint: Checkpoint, layers: list[dict[str, str]]) -> list[int]:
    """The positions of the layers that equal the first one; none when no other does."""
    if len(layers) < 2 or checkpoint.weights is None:
        return []
    from loradoctor.checkpoint.values import same_bytes

    path, tensors, first = checkpoint.weights, checkpoint.tensors, layers[0]
    equal = [
        i for i, names in enumerate(layers) if i == 0 or all(same_bytes(path, tensors[n], tensors[first[t]]) for t, n in names.items())
    ]
    return equal if len(equal) > 1 else []
