"""Time and memory of `loradoctor check --no-base`, spectra included, start of the interpreter too.

`python benchmarks/check_speed.py` prints medians for an adapter of 84 MB (448 tensors in float32) and fails when they are above 0.4 s or
250 MB of anonymous memory. `--large` does the same for 2 GB, of a model the size of Llama 70B: there at least 1 GB/s is wanted, on one core
and with the file in the page cache. `--busy` judges by processor time instead, for a machine that has other things to do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, MEGABYTES, RATE = 0.4, 250, 1e9
RANK = 16
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "some/base", "r": RANK, "lora_alpha": 32,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}  # fmt: skip
SMALL, LARGE = (84_000_000, 2048, 6144), (2_000_000_000, 8192, 28672)
"""Bytes, width of the model, width of its feed-forward layers."""
MEASURED = """
import re, sys, threading
peak = 0
def watch():
    global peak
    while True:
        found = re.search(r'RssAnon:\\s+(\\d+)', open('/proc/self/status').read())
        peak = max(peak, int(found[1])); done.wait(0.002)
        if done.is_set(): return
done = threading.Event()
thread = threading.Thread(target=watch, daemon=True); thread.start()
sys.argv = ['loradoctor', 'check', '--no-base', sys.argv[1]]
from loradoctor.__main__ import main
try:
    main()
except SystemExit:
    pass
done.set(); thread.join()
print(f'peak={peak}', file=sys.stderr)
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def modules(width: int, wide: int) -> list[tuple[str, int, int]]:
    """Name, inputs and outputs of every adapted module of one layer."""
    attention = [(f"self_attn.{m}", width, width) for m in ("q_proj", "k_proj", "v_proj", "o_proj")]
    return [*attention, ("mlp.gate_proj", width, wide), ("mlp.up_proj", width, wide), ("mlp.down_proj", wide, width)]


def write(directory: Path, dtype: str, size: int, width: int, wide: int) -> int:
    """An adapter of about ``size`` bytes with random values; the values of a layer return in the next. Gives its number of tensors."""
    import ml_dtypes
    import numpy as np

    kind = {"F32": np.dtype("f4"), "F16": np.dtype("f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}[dtype]
    rng = np.random.default_rng(0)
    shapes = [(f"{m}.lora_{half}.weight", s) for m, i, o in modules(width, wide) for half, s in (("A", (RANK, i)), ("B", (o, RANK)))]
    blocks = [(name, (rng.standard_normal(shape, "f4") * 0.02).astype(kind)) for name, shape in shapes]
    layers = round(size / sum(b.nbytes for _, b in blocks))
    header: dict[str, object] = {}
    offset = 0
    for layer in range(layers):
        for name, block in blocks:
            offsets = [offset, offset + block.nbytes]
            header[f"base_model.model.model.layers.{layer}.{name}"] = {
                "dtype": dtype,
                "shape": list(block.shape),
                "data_offsets": offsets,
            }
            offset += block.nbytes
    text = json.dumps(header).encode()
    directory.mkdir()
    with (directory / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for layer in range(layers):
            for _, block in blocks:
                # Values of its own in each, or all layers would be copies of one another and compared byte by byte.
                block.reshape(-1)[:2] = (layer // 128 + 1) / 256, (layer % 128 + 1) / 256
                file.write(block.tobytes())
    (directory / "adapter_config.json").write_text(json.dumps(CONFIG))
    return len(header)


def measure(directory: Path, runs: int) -> tuple[list[float], list[float], float]:
    """Wall and processor seconds of every run, and megabytes of anonymous memory."""
    walls, spent = [], []
    for _ in range(runs):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "loradoctor", "check", "--no-base", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
    watched = subprocess.run([sys.executable, "-c", MEASURED, str(directory)], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    return walls, spent, int(watched.stderr.rpartition("peak=")[2]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--dtypes", nargs="*", default=["F32", "BF16", "F16"])
    parser.add_argument("--loaders", action="store_true", help="the torch side's loaders for a 70B config instead")
    options = parser.parse_args()
    if options.loaders:
        from loader_speed import main as loaders

        return loaders(["--busy"] if options.busy else [])
    size, width, wide = LARGE if options.large else SMALL
    limit = size / RATE if options.large else SECONDS
    failed = False
    for dtype in options.dtypes:
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary, "adapter")
            tensors = write(directory, dtype, size, width, wide)
            walls, spent, peak = measure(directory, 3 if options.large else 9)
            actual = (directory / "adapter_model.safetensors").stat().st_size
        judged = statistics.median(spent if options.busy else walls)
        failed |= judged > limit or peak > MEGABYTES
        print(
            f"{dtype:4}  {actual / 1e6:.0f} MB, {tensors} tensors  {statistics.median(walls):.3f} s (best {min(walls):.3f}), processor "
            f"{statistics.median(spent):.3f} s, {actual / judged / 1e9:.2f} GB/s  {peak:.0f} MB anonymous"
        )
    print(f"limits: {limit:g} s, {MEGABYTES} MB")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
