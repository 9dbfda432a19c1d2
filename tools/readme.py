"""Write the rule table between its markers in README.md; with --check only say whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from loradoctor.registry import all_rules
from loradoctor.report.catalogue import markdown_table

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- rules: written by `make readme` -->\n", "<!-- end of rules -->"


def updated(text: str) -> str:
    """``text`` with the table of this version's rules. Raises ``ValueError`` when the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{README} has lost the markers of the rule table")
    return f"{before}{begin}\n{markdown_table(all_rules())}\n{end}{after}"


def main() -> int:
    """Update the file; exit code 1 when ``--check`` finds it out of date."""
    text = README.read_text(encoding="utf-8")
    fresh = updated(text)
    if "--check" in sys.argv:
        return int(fresh != text)
    README.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
