"""Run rules over a subject: stamp what they find, keep going when one of them fails."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from loradoctor.diagnostic import Diagnostic, Finding, Location
from loradoctor.rule import Rule
from loradoctor.self_report import check_did_not_complete

S = TypeVar("S")


def stamp(rule: Rule[S], finding: Finding, subject: str) -> Diagnostic:
    """The diagnostic for ``finding``, which ``rule`` made about ``subject``."""
    return Diagnostic(
        code=rule.code,
        name=rule.name,
        severity=finding.severity or rule.severity,
        message=finding.message,
        location=finding.location,
        subject=subject,
        help=finding.help,
        refs=rule.refs,
        related=finding.related,
        data=finding.data,
        fix=finding.fix,
    )


def run(rules: Iterable[Rule[S]], subject: S, path: str) -> list[Diagnostic]:
    """Every rule's findings about one subject, in report order; a rule that crashes becomes an LD002."""
    diagnostics: list[Diagnostic] = []
    for rule in rules:
        try:
            diagnostics += [stamp(rule, finding, path) for finding in rule.check(subject)]
        except Exception as error:  # noqa: BLE001 -- one broken rule must not hide what the others find
            failure = Finding(
                f"the rule `{rule.name}` failed with {type(error).__name__}: {error}",
                Location(path),
                help="the other rules ran; please report this with the file that caused it",
                data={"rule": rule.code},
            )
            diagnostics.append(stamp(check_did_not_complete, failure, path))
    return sorted(diagnostics, key=lambda d: d.sort_key)
