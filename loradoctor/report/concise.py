"""``--format concise``: a line a finding, as compilers print them and editors read them."""

from __future__ import annotations

from loradoctor.diagnostic import Report
from loradoctor.report.escape import printable
from loradoctor.report.text import place


def render(report: Report) -> str:
    """``path:line:column: severity[code] message`` for each finding; empty when there is none."""
    return "".join(f"{place(d.location)}: {d.severity}[{d.code}] {printable(d.message)}\n" for d in report.diagnostics)
