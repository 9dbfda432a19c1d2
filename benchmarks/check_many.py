"""Adapters per second and memory of `loradoctor check -r --no-base` over many small adapters, some of them broken.

`python benchmarks/check_many.py [--count 10000] [--jobs 2]` makes them in a temporary directory, checks them, compares verdicts with
what was made and removes them. It fails below 300 adapters a second, or when memory grows with their number.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PER_SECOND, GROWTH = 300, 1.25
"""Wanted rate on two cores, and how many times the memory for a tenth of the adapters all of them may take."""
LAYERS, MODULES, RANK, WIDTH = 2, ("q_proj", "v_proj"), 8, 64
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "some/base", "r": RANK, "lora_alpha": 16,
    "target_modules": list(MODULES),
}  # fmt: skip
EVERY = {"not-a-number": 97, "truncated": 101, "no-config": 103}
"""Every how many adapters one is broken in this way."""


def write(directory: Path, number: int) -> bool:
    """One adapter; whether it is a sound one."""
    import numpy as np

    rng = np.random.default_rng(number)
    header: dict[str, object] = {}
    blocks: list[bytes] = []
    offset = 0
    broken = next((how for how, each in EVERY.items() if number % each == 0), "")
    for layer in range(LAYERS):
        for module in MODULES:
            for half, shape in (("A", (RANK, WIDTH)), ("B", (WIDTH, RANK))):
                values = rng.standard_normal(shape, "f4") * np.float32(0.02)
                if broken == "not-a-number" and half == "B":
                    values[0, 0] = np.nan
                header[f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{half}.weight"] = {
                    "dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + values.nbytes]}  # fmt: skip
                offset += values.nbytes
                blocks.append(values.tobytes())
    text = json.dumps(header).encode()
    directory.mkdir(parents=True)
    data = struct.pack("<Q", len(text)) + text + b"".join(blocks)
    (directory / "adapter_model.safetensors").write_bytes(data[:-100] if broken == "truncated" else data)
    if broken != "no-config":
        (directory / "adapter_config.json").write_text(json.dumps(CONFIG))
    return not broken


def measured(root: Path, jobs: int) -> tuple[float, float, float, dict[str, object]]:
    """Seconds, seconds of processor time, the largest sum of its processes' anonymous memory in MB, and the closing line."""
    command = [
        sys.executable,
        "-m",
        "loradoctor",
        "check",
        "-r",
        "--no-base",
        "--isolated",
        "--format",
        "jsonl",
        "--jobs",
        str(jobs),
        str(root),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""})
        peak = 0
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.05):
                peak = max(peak, sum(map(anonymous, [process.pid, *children(process.pid)])))

        thread = threading.Thread(target=watch)
        thread.start()
        process.wait()
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        done.set()
        thread.join()
        out.seek(0)
        last = ""
        for line in out:
            last = line
    return seconds, spent, peak / 1024, json.loads(last)


def children(pid: int) -> list[int]:
    """The processes that one has started."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def anonymous(pid: int) -> int:
    """Anonymous memory in kB; pages shared after a fork count in each process."""
    try:
        found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        few, many = Path(temporary, "few"), Path(temporary, "many")
        sound = {few: 0, many: 0}
        for root, count in ((few, options.count // 10), (many, options.count)):
            for number in range(1, count + 1):
                sound[root] += write(root / f"{number // 100:04}" / f"a{number:06}", number)
        _, _, small, _ = measured(few, options.jobs)
        seconds, spent, large, closing = measured(many, options.jobs)
    verdicts = closing["verdicts"]
    assert isinstance(verdicts, dict)
    right = verdicts["ok"] == sound[many] and verdicts["error"] == options.count - sound[many]
    rate = options.count / seconds
    print(f"{options.count:,} adapters, {options.jobs} processes: {seconds:.1f} s, {rate:.0f} a second (wanted {PER_SECOND})")
    print(f"processor time: {spent:.1f} s, so {options.count * options.jobs / spent:.0f} a second on {options.jobs} processors of its own")
    print(f"anonymous memory of all processes: {large:.0f} MB, {small:.0f} MB for a tenth of them")
    print(f"verdicts: {verdicts}; {'as made' if right else 'NOT as made'}")
    return int(rate < PER_SECOND or large > small * GROWTH or not right)


if __name__ == "__main__":
    raise SystemExit(main())
