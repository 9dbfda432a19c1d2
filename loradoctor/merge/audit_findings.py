"""What the audit rules share: a table of causes, and where a finding about a merged model stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from loradoctor.diagnostic import Finding, Location
from loradoctor.merge.audit import AuditFault, examples

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint

Causes = Mapping[str, tuple[str, str]]
"""cause → message and help; both may use the fields of a fault and of its detail"""


def findings(checkpoint: Checkpoint, causes: Causes) -> Iterator[Finding]:
    """One finding for every fault of the audit whose cause is in ``causes``."""
    audit = checkpoint.evidence.audit if checkpoint.evidence is not None else None
    if audit is None:
        return
    for fault in audit.named(*causes):
        message, help_ = (text.format_map(_Fields(fault)) for text in causes[fault.cause])
        tensor, file = fault.examples[0] if fault.examples else (None, fault.detail.get("file"))
        path = audit.directory.rstrip("/") or "/"
        names = examples([fault])
        data = {
            **fault.detail,
            "cause": fault.cause,
            "coefficient": fault.coefficient,
            "residual": fault.residual,
            "count": fault.count,
            "examples": [name for name, _ in fault.examples],
            "module": tensor.removesuffix(".weight") if tensor else None,
        }
        location = Location(f"{path}/{file}" if file else path, key=tensor)
        yield Finding(f"{message}: {names}" if names else message, location, help=help_, data=data)


class _Fields(dict[str, object]):
    """The numbers a message may name, rounded for reading; what a cause does not have is a dash."""

    def __init__(self, fault: AuditFault) -> None:
        whole = {"count": fault.count, "tensors": "tensor" if fault.count == 1 else "tensors", "are": "is" if fault.count == 1 else "are"}
        numbers = {"coefficient": fault.coefficient, "residual": fault.residual, **fault.detail}
        super().__init__({**{name: _shown(value) for name, value in numbers.items()}, **whole})

    def __missing__(self, key: str) -> str:
        return "-"


def _shown(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
