"""Make the catalogue's broken checkpoints anew and hold `check` against them: `python benchmarks/catalogue_cases.py --output DIR`.

Every case is a directory built by real PEFT calls on a tiny model. The table says for each: what PEFT does, which codes `check` gives
without and with the base model (errors in capitals, warnings in small letters), which were wanted, and whether they are the same. Exits 1
when a case that can be decided is silent or a good one is not.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

from loradoctor.checkpoint.run import CheckOptions, TargetError, check_many
from loradoctor.diagnostic import Diagnostic, Severity


def build(output: Path, names: list[str]) -> None:
    from catalogue import models
    from catalogue.case import CASES

    for base in models.BASES:
        models.model(base).save_pretrained(output / "bases" / base)
    for name in names:
        to = output / "cases" / name
        shutil.rmtree(to, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CASES[name].build(to)
        for readme in to.rglob("README.md"):
            readme.unlink()


def verdicts(directory: Path, base: str) -> list[Diagnostic] | None:
    """What `check` says at warning level or above; None when it refuses the directory with one line."""
    try:
        return list(check_many([str(directory)], CheckOptions(base=base)).at_least(Severity.WARNING))
    except TargetError:
        return None


def codes(found: list[Diagnostic] | None) -> frozenset[str]:
    return frozenset({"refused"} if found is None else (d.code for d in found))


def shown(found: list[Diagnostic] | None) -> str:
    if found is None:
        return "refused"
    return " ".join(d.code if d.severity is Severity.ERROR else d.code.lower() for d in found) or "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=None, help="numbers of cases, `4` for all that begin with it")
    parser.add_argument("--json", type=Path, help="write every finding here as well")
    arguments = parser.parse_args()
    from catalogue import config, files, heads, keys, loading, values  # noqa: F401 -- they register their cases
    from catalogue.case import CASES, accepts

    names = sorted(n for n in CASES if arguments.only is None or n.startswith(tuple(arguments.only)))
    build(arguments.output, names)
    tally: collections.Counter[str] = collections.Counter()
    log = {}
    print("| case | PEFT | without base | with base | wanted | verdict |\n| --- | --- | --- | --- | --- | --- |")
    for name in names:
        case, directory = CASES[name], arguments.output / "cases" / name
        light, based = verdicts(directory, "none"), verdicts(directory, str(arguments.output / "bases" / case.on))
        right = accepts(case.light, codes(light)) and accepts(case.base, codes(based))
        silent = bool(case.base) and not case.beyond and not codes(based)
        alarmed = not (case.light or case.base) and bool(codes(light) | codes(based))
        verdict = "MISSED" if silent else "FALSE ALARM" if alarmed else "other" if not right else "beyond" if case.beyond else "as wanted"
        if verdict == "as wanted" and case.wrong and based is not None and all(d.severity is not Severity.ERROR for d in based):
            verdict = "as wanted, a warning"
        tally[verdict] += 1
        wanted = case.light if case.light == case.base else f"{case.light or '-'} / {case.base or '-'}"
        print(f"| {name} | {case.peft} | {shown(light)} | {shown(based)} | {case.beyond or wanted or '-'} | {verdict} |", flush=True)
        log[name] = [
            {"tier": tier, "code": d.code, "severity": d.severity.value, "message": d.message, "data": dict(d.data)}
            for tier, found in (("light", light), ("base", based))
            for d in found or ()
        ]
    print(f"\n{len(names)} cases: " + ", ".join(f"{count} {verdict}" for verdict, count in tally.most_common()))
    if arguments.json:
        arguments.json.write_text(json.dumps(log, indent=1, default=str))
    return 1 if tally["MISSED"] or tally["FALSE ALARM"] else 0


if __name__ == "__main__":
    # PEFT writes sets as lists: only a fixed hash seed keeps their order from run to run.
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    raise SystemExit(main())
