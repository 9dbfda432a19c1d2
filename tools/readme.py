"""Write into README.md what the tool says: the rule table between its markers, and the output of every example.

An example with `...` in it leaves something out on purpose and is left as it is; the tests hold it against the tool.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from loradoctor.registry import all_rules
from loradoctor.report.catalogue import markdown_table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- rules: written by `make readme` -->\n", "<!-- end of rules -->"


def with_table(text: str) -> str:
    """``text`` with the table of this version's rules. Raises ``ValueError`` when the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{README} has lost the markers of the rule table")
    return f"{before}{begin}\n{markdown_table(all_rules())}\n{end}{after}"


def with_examples(text: str) -> str:
    """``text`` with what its commands print now."""
    return re.sub(r"(?<=^```console\n)\$ loradoctor (.*?)\n(.*?)(?=^```)", _example, text, flags=re.DOTALL | re.MULTILINE)


def _example(block: re.Match[str]) -> str:
    arguments, shown = block.groups()
    if "..." in shown:
        return block.group()
    command = [sys.executable, "-m", "loradoctor", *arguments.split()]
    environ = {**os.environ, "NO_COLOR": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    return f"$ loradoctor {arguments}\n{result.stdout}"


if __name__ == "__main__":
    README.write_text(with_examples(with_table(README.read_text(encoding="utf-8"))), encoding="utf-8")
