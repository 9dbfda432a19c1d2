"""Run `lint` over code nobody wrote for it: whole directories, random mutations of real files, and code nested as no one would.

    python benchmarks/lint_robustness.py DIR... [--mutations 2000] [--mutate DIR...] [--deep] [--all-functions] [--limit 10] [--processes 2]

The filter that leaves files without relevant words alone is switched off; with ``--all-functions`` so is the choice of functions
to run, and the executor sees all there is. Every input is examined in a process of its own
kind, so that one which ends its interpreter (a stack overflow in native code) or never returns is counted, named, and the run
goes on. An input passes when it gets a report, of whatever findings, within the limit of processor time; a crash, a hang, a
dead process and a report that says the check did not complete (LD002) fail. The exit code is 1 when anything failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path

SUFFIXES = (".py", ".ipynb", ".md", ".rst")
# A machine that does other work gives a file less than a second of processor time per second.
PATIENCE = 12
MEMORY = 4 << 30
"""Bytes that a process may take before it is told that there are no more."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file, or made-up bytes under a name."""

    name: str
    data: bytes | None = None

    def read(self) -> bytes:
        """Its bytes."""
        return Path(self.name).read_bytes() if self.data is None else self.data


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one input: seconds of processor time, the LD0xx codes with their places, and a crash in words."""

    size: int = 0
    seconds: float = 0.0
    codes: tuple[tuple[str, str], ...] = ()
    findings: int = 0
    crash: str = ""


@dataclass
class Tally:
    """The sums, and what failed."""

    limit: float
    inputs: int = 0
    size: int = 0
    seconds: float = 0.0
    findings: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: list[tuple[float, int, str]] = field(default_factory=list)

    def add(self, name: str, outcome: Outcome) -> None:
        """Count what came of one input."""
        self.inputs += 1
        self.size += outcome.size
        self.seconds += outcome.seconds
        self.findings += outcome.findings
        self.codes.update(code for code, _ in outcome.codes)
        self.slowest = sorted([*self.slowest, (outcome.seconds, outcome.size, name)], reverse=True)[:10]
        if outcome.crash:
            self.fail(name, outcome.crash)
        elif outcome.seconds > self.limit:
            self.fail(name, f"slow: {outcome.seconds:.1f} s of processor time")
        for code, text in outcome.codes:
            if code == "LD002" or "no place" in text:
                self.fail(name, f"{code}: {text}")

    def fail(self, name: str, why: str) -> None:
        """Note and print that an input failed."""
        self.failures.append(f"{name}: {why}")
        print(f"FAILED {name}: {why}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="*", type=Path)
    parser.add_argument("--mutations", type=int, default=0, help="how many random mutations of real files")
    parser.add_argument("--mutate", nargs="+", type=Path, help="where the files to mutate are (default: the directories)")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--deep", action="store_true", help="code nested, long and wide beyond reason")
    parser.add_argument("--all-functions", action="store_true", help="run those too that nothing a rule looks at begins in")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds of processor time that a file may take")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="take only every nth file")
    parser.add_argument("--json", type=Path, help="write the totals there")
    options = parser.parse_args()
    tally = Tally(options.limit)
    begin = time.perf_counter()
    with suppress(KeyboardInterrupt):  # the sums so far
        run(inputs(options), tally, options.processes, everything=options.all_functions)
    report(tally, time.perf_counter() - begin)
    if options.json:
        totals = {"inputs": tally.inputs, "bytes": tally.size, "seconds": tally.seconds, "codes": tally.codes, "failures": tally.failures}
        options.json.write_text(json.dumps(totals | {"slowest": tally.slowest}, indent=1))
    return 1 if tally.failures else 0


def report(tally: Tally, wall: float) -> None:
    print(f"{tally.inputs} inputs, {tally.size / 1e6:.1f} MB: {wall:.0f} s, {tally.seconds:.0f} s of processor time")
    print(f"{len(tally.failures)} failed; {tally.findings} findings; " + ", ".join(f"{n} {c}" for c, n in sorted(tally.codes.items())))
    for seconds, size, name in tally.slowest:
        print(f"  {seconds:6.2f} s  {size / 1e3:9.1f} kB  {name}")


def inputs(options: argparse.Namespace) -> Iterator[Input]:
    if options.deep:
        yield from (Input(f"{name}.py", make().encode()) for name, make in DEEP.items())
    paths = [p for d in options.directories for p in files_below(d)]
    yield from (Input(str(p)) for p in paths[:: options.every])
    if options.mutations:
        sources = [p for d in options.mutate for p in files_below(d)] if options.mutate else paths
        small = [p for p in sources if 200 < p.stat().st_size < 20_000]
        rng = random.Random(options.seed)
        for number in range(options.mutations if small else 0):
            path = rng.choice(small)
            yield Input(f"{path}#{number}{path.suffix}", mutated(path.read_bytes(), rng))


def files_below(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.suffix in SUFFIXES and p.is_file())


TOKENS = [
    b"(",
    b")",
    b"[",
    b"\n",
    b" ",
    b"*",
    b"**",
    b"=",
    b":",
    b",",
    b"\\\n",
    b"'",
    b'"""',
    b"\f",
    b"\t",
    b"\r",
    b";",
    b"if ",
    b"lambda: ",
]


def mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        if not data:
            break
        spot = rng.randrange(len(data))
        match rng.randrange(20):
            case 0:  # rarely: what is not UTF-8 is refused before anything else is tried
                data[spot] = rng.randrange(256)
            case n if n < 4:
                del data[spot : spot + rng.randint(1, 20)]
            case n if n < 8:  # the end of one line and the start of another
                end = data.find(b"\n", spot)
                del data[spot : end + 1 if end >= 0 else spot + 1]
            case n if n < 16:  # what Python reads: a mutation that still parses reaches further in
                data[spot:spot] = rng.choice(TOKENS)
            case _:
                other = rng.randrange(len(data))
                data[spot:spot] = data[other : other + rng.randint(1, 200)]
    return bytes(data)


# -- processes


@dataclass
class Worker:
    """A process that examines inputs one by one, and what it is busy with."""

    process: multiprocessing.process.BaseProcess
    connection: Connection
    everything: bool = False
    busy: Input | None = None
    since: float = 0.0

    @classmethod
    def start(cls, *, everything: bool) -> Worker:
        """A new process, which knows nothing of the inputs before."""
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, everything), daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours, everything)

    def take(self, one: Input) -> None:
        """Hand it an input."""
        self.busy, self.since = one, time.monotonic()
        self.connection.send(one)

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def run(pending: Iterator[Input], tally: Tally, processes: int, *, everything: bool = False) -> None:
    workers = [Worker.start(everything=everything) for _ in range(processes)]
    try:
        while True:
            for worker in workers:
                if worker.busy is None and (one := next(pending, None)) is not None:
                    worker.take(one)
            active = [w for w in workers if w.busy is not None]
            if not active:
                return
            wait([w.connection for w in active], timeout=1.0)
            for worker in active:
                finish(worker, tally, workers)
    finally:
        for worker in workers:
            worker.stop()


def finish(worker: Worker, tally: Tally, workers: list[Worker]) -> None:
    """Collect a result that is there; replace a worker that died or took too long."""
    if worker.busy is None:
        return
    if worker.connection.poll():
        try:
            outcome = worker.connection.recv()
        except EOFError:
            worker.process.join()
            outcome = Outcome(crash=f"the process died with exit code {worker.process.exitcode}")
    elif time.monotonic() - worker.since > tally.limit * PATIENCE:
        outcome = Outcome(crash=f"hang: no answer in {tally.limit * PATIENCE:g} s")
    else:
        return
    tally.add(worker.busy.name, outcome)
    worker.busy = None
    if outcome.crash and not outcome.size:
        workers.remove(worker)
        worker.stop()
        workers.append(Worker.start(everything=worker.everything))


# Looking for cycles takes longer than most files, the more so the more modules are remembered.
INPUTS_A_COLLECTION = 25


def work(connection: Connection, everything: bool = False) -> None:
    """Examine what comes in, until the other side is gone."""
    import gc
    import resource

    from loradoctor.lint.pipeline import Pipeline

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if everything:
        without_economies()
    gc.disable()
    pipeline = Pipeline()
    pipeline.examine("a.py", b"import peft\n")  # imports what there is to import
    gc.freeze()
    for number in count(1):
        try:
            one = connection.recv()
        except EOFError:
            return
        start = time.process_time()
        data = b""
        try:
            data = one.read()
            found = pipeline.examine(one.name, data).diagnostics
        except Exception as error:
            connection.send(Outcome(max(1, len(data)), time.process_time() - start, crash=f"crash: {type(error).__name__}: {error}"))
            continue
        seconds = time.process_time() - start
        codes = tuple((d.code, d.message + place(d.code, d.location.span)) for d in found if d.code.startswith("LD0"))
        connection.send(Outcome(max(1, len(data)), seconds, codes, len(found) - len(codes)))
        del found
        if number % INPUTS_A_COLLECTION == 0:
            gc.collect()


def without_economies() -> None:
    """Let the executor run every function, in this process."""
    from loradoctor.lint import prune
    from loradoctor.lint.flow.machine import Machine

    prune.worth_starting = lambda *_: True
    Machine.worth_entering = lambda *_: True  # type: ignore[method-assign]


def place(code: str, span: object) -> str:
    return " (no place)" if code == "LD001" and span is None else ""


# -- what no one would write

DEEP: dict[str, Callable[[], str]] = {
    "parentheses": lambda: f"x = {'(' * 10_000}1{')' * 10_000}\n",
    "unclosed_parentheses": lambda: f"x = {'(' * 10_000}\n",
    "lists": lambda: f"x = {'[' * 10_000}{']' * 10_000}\n",
    "calls": lambda: f"x = {'f(' * 10_000}{')' * 10_000}\n",
    "call_chain": lambda: f"x = f{'()' * 20_000}\n",
    "subscript_chain": lambda: f"x = f{'[0]' * 20_000}\n",
    "attribute_chain": lambda: f"x = f{'.a' * 50_000}\n",
    "method_chain": lambda: f"x = f{'.a()' * 20_000}\n",
    "nested_ifs": lambda: "".join(f"{' ' * n}if x:\n" for n in range(5_000)) + " " * 5_000 + "pass\n",
    "nested_ifs_90": lambda: "".join(f"{' ' * n}if x:\n" for n in range(90)) + " " * 90 + "pass\n",
    "nested_functions": lambda: "".join(f"{' ' * n}def f(x):\n" for n in range(5_000)) + " " * 5_000 + "pass\n",
    "nested_functions_90": lambda: "".join(f"{' ' * n}def f(x):\n" for n in range(90)) + " " * 90 + "pass\n",
    "nested_withs_90": lambda: "".join(f"{' ' * n}with x:\n" for n in range(90)) + " " * 90 + "pass\n",
    "nested_fors_90": lambda: "".join(f"{' ' * n}for x in y:\n" for n in range(90)) + " " * 90 + "pass\n",
    "nested_tries_90": lambda: (
        "".join(f"{' ' * n}try:\n" for n in range(90))
        + " " * 90
        + "x()\n"
        + "".join(f"{' ' * n}except E: y()\n" for n in reversed(range(90)))
    ),
    "one_line_ifs": lambda: "if x: y\n" * 20_000,
    "elifs": lambda: "if x:\n    pass\n" + "elif y:\n    z()\n" * 20_000,
    "elses": lambda: "".join(f"{' ' * n}if x: pass\n{' ' * n}else:\n" for n in range(3_000)) + " " * 3_000 + "pass\n",
    "sum": lambda: f"x = {' + '.join(['a'] * 100_000)}\n",
    "sum_in_parentheses": lambda: "x = (" + "\n + ".join(["a"] * 100_000) + ")\n",
    "comparisons": lambda: f"x = {' < '.join(['a'] * 100_000)}\n",
    "booleans": lambda: f"x = {' and '.join(['a'] * 100_000)}\n",
    "nots": lambda: f"x = {'not ' * 100_000}a\n",
    "minuses": lambda: f"x = {'-' * 100_000}1\n",
    "powers": lambda: f"x = {'**'.join(['a'] * 100_000)}\n",
    "choices": lambda: f"x = {'a if b else ' * 20_000}c\n",
    "lambdas": lambda: f"x = {'lambda: ' * 20_000}0\n",
    "walruses": lambda: f"x = {'(y := ' * 150}0{')' * 150}\n",
    "assignments": lambda: f"{'x = ' * 20_000}0\n",
    "targets": lambda: f"{', '.join(f'x{n}' for n in range(50_000))} = y\n",
    "stars": lambda: f"f({'*a, ' * 20_000})\n",
    "keywords": lambda: f"f({', '.join(f'a{n}={n}' for n in range(20_000))})\n",
    "parameters": lambda: f"def f({', '.join(f'a{n}={n}' for n in range(20_000))}): pass\n",
    "decorators": lambda: "@d\n" * 20_000 + "def f(): pass\n",
    "strings": lambda: "x = (" + " 'a'" * 100_000 + ")\n",
    "f_strings": lambda: "x = " + "f'{" * 100 + "1" + "}'" * 100 + "\n",
    "f_string_fields": lambda: "x = f'" + "{a}" * 50_000 + "'\n",
    "comprehension": lambda: f"x = [a {'for a in b ' * 20_000}]\n",
    "comprehension_ifs": lambda: f"x = [a for a in b {'if a ' * 20_000}]\n",
    "nested_comprehensions": lambda: f"x = {'[a for a in ' * 150}b{']' * 150}\n",
    "comprehension_of_known_items": lambda: f"x = [(a0, a9) {' '.join(f'for a{n} in (1, 2, 3, 4)' for n in range(10))}]\n",
    "awaits": lambda: f"async def f():\n    x = {'await ' * 20_000}a\n",
    "unpackings": lambda: f"{'(' * 150}a{',)' * 150} = b\n",
    "cases": lambda: "match x:\n" + "".join(f"    case {n}: y()\n" for n in range(10_000)),
    "deep_case": lambda: f"match x:\n    case {'[' * 2_000}a{']' * 2_000}: y()\n",
    "or_case": lambda: f"match x:\n    case {' | '.join(map(str, range(20_000)))}: y()\n",
    "excepts": lambda: "try:\n    x()\n" + "".join(f"except E{n}: y()\n" for n in range(10_000)),
    "semicolons": lambda: "x();" * 50_000 + "\n",
    "backslashes": lambda: "x = a" + " \\\n + a" * 2_000 + "\n",
    "lines": lambda: "".join(f"x{n} = f(y{n - 1})\n" for n in range(50_000)),
    "functions": lambda: "".join(f"def f{n}(x):\n    return f{n + 1}(x)\n" for n in range(10_000)) + "f0(1)\n",
    "functions_called_twice": lambda: "".join(f"def f{n}(x):\n    f{n + 1}(x)\n    return f{n + 1}(x)\n" for n in range(60)) + "f0(1)\n",
    "mutual_recursion": lambda: "def f(x):\n    return g(x, [x])\ndef g(x, y):\n    return f([y, x])\nf(1)\n" * 300,
    "classes": lambda: (
        "class C0: pass\n"
        + "".join(f"class C{n}(C{n - 1}):\n    def m(self): return self.m()\n" for n in range(1, 5_000))
        + "C4999().m()\n"
    ),
    "diamonds": lambda: (
        "import peft\nclass A0: pass\nclass B0: pass\n"
        + "".join(
            f"class {c}{n}(A{n - 1}, B{n - 1}):\n    def m(self, x): return peft.get_peft_model(x, 1)\n" for n in range(1, 19) for c in "AB"
        )
    ),
    "class_cycle": lambda: "class A(B): pass\nclass B(A): pass\nA().m()\n" * 100,
    "branches": lambda: "".join(f"if c{n}:\n    x = f(x)\nelse:\n    x = g(x)\n" for n in range(3_000)),
    "loops": lambda: "".join(f"for i{n} in x:\n    y = f(y, i{n})\n" for n in range(3_000)),
    "models": lambda: (
        "from peft import *\nfrom transformers import *\nm = AutoModelForCausalLM.from_pretrained('a')\n"
        + "".join(f"if c{n}:\n    m = get_peft_model(m, LoraConfig(r={n}))\n    m.merge_and_unload()\n" for n in range(300))
    ),
    "adapters": lambda: (
        "from peft import *\nm = get_peft_model(base, LoraConfig())\n" + "".join(f"m.load_adapter('{n}', '{n}')\n" for n in range(3_000))
    ),
    "string_10_mb": lambda: "x = '" + "a" * 10_000_000 + "'\n",
    "docstring_10_mb": lambda: '"""' + "a b (\n" * 1_600_000 + '"""\n',
    "bytes_10_mb": lambda: "x = b'" + "\\x00" * 2_500_000 + "'\n",
    "number_1_mb": lambda: f"x = {'9' * 1_000_000}\n",
    "hex_1_mb": lambda: f"x = 0x{'f' * 1_000_000}\n",
    "list_1_mb": lambda: f"x = [{'1, ' * 350_000}]\n",
    "dict_1_mb": lambda: "x = {" + "".join(f"'{n}': {n}, " for n in range(60_000)) + "}\n",
    "comment_10_mb": lambda: "# " + "a" * 10_000_000 + "\nx = 1\n",
    "comments": lambda: "# (\n" * 200_000,
    "blank_lines": lambda: "\n" * 500_000 + "x = 1\n",
    "spaces": lambda: "x = 1" + " " * 1_000_000 + "\n",
    "quotes": lambda: "'" * 100_000 + "\n",
    "backslash_string": lambda: "x = '" + "\\" * 200_000 + "'\n",
    "suppressions": lambda: "x = 1  # loradoctor: ignore[LD101]\n" * 10_000,
    "format_percent": lambda: "x = '" + "%s" * 100_000 + "' % y\n",
    "strings_added": lambda: "x = ''\n" + "x = x + x + 'abc'\n" * 1_000,
    "lists_added": lambda: "x = [1]\n" + "x = x + x\n" * 1_000,
    "lists_multiplied": lambda: "x = [1] * 1000000000000\ny = 'a' * 100000000000\nz = 10 ** 10 ** 10\nw = 1 << 10 ** 12\n",
    "joined_paths": lambda: "import os\nx = 'a'\n" + "x = os.path.join(x, x)\n" * 1_000,
    "tuples_nested_by_assignment": lambda: "x = 1\n" + "x = (x, x)\n" * 2_000,
    "dicts_nested_by_assignment": lambda: "x = {}\n" + "x = {'a': x, 'b': x}\n" * 2_000,
    "dicts_unpacked": lambda: "x = {'a': 1}\n" + "x = {**x, **x}\n" * 2_000,
    "self_reference": lambda: "x = []\nx.append(x)\nx = {'a': x}\nx['a'] = x\nprint(x)\n",
    "star_imports": lambda: "from os import *\n" * 20_000,
    "globals": lambda: "def f():\n" + "".join(f"    global x{n}\n    x{n} = 1\n" for n in range(5_000)) + "f()\n",
}


if __name__ == "__main__":
    sys.exit(main())
