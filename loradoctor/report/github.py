"""``--format github``: one workflow command a finding, which GitHub Actions turns into an annotation."""

from __future__ import annotations

from loradoctor.diagnostic import Diagnostic, Report, Severity
from loradoctor.report.escape import printable
from loradoctor.report.sources import Sources

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def render(report: Report) -> str:
    """One line a finding; empty when there is none."""
    sources = Sources()
    return "".join(f"{_command(d, sources)}\n" for d in report.diagnostics)


def _command(diagnostic: Diagnostic, sources: Sources) -> str:
    location = diagnostic.location
    properties = {"file": location.path}
    prefix = ""
    if location.cell is not None:
        # The annotation stands at the JSON that holds the line; the text says where a person finds it.
        line = f", line {location.span.line}" if location.span else ""
        if (number := sources.file_line(location)) is not None:
            properties["line"] = str(number)
        prefix = f"cell {location.cell}{line}: "
    elif span := location.span:
        properties |= {"line": str(span.line), "endLine": str(span.end_line)}
        if span.line == span.end_line:
            properties |= {"col": str(span.column), "endColumn": str(span.end_column)}
    properties["title"] = f"{diagnostic.code} {diagnostic.name}"
    lines = [prefix + diagnostic.message]
    if location.key:
        lines.append(f"key: {location.key}")
    if diagnostic.help:
        lines.append(diagnostic.help)
    listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    message = "%0A".join(_data(line) for line in lines)
    return f"::{_COMMANDS[diagnostic.severity]} {listed}::{message}"


def _data(text: str) -> str:
    return printable(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
