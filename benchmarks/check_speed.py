"""Time and memory of `loradoctor check --no-base` on an 80 MB adapter, start of the interpreter included.

`python benchmarks/check_speed.py` prints medians; it fails when they are above 0.3 s or 200 MB of anonymous memory.
"""

from __future__ import annotations

import json
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, MEGABYTES = 0.3, 200
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "some/base", "r": 16, "lora_alpha": 32,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
}  # fmt: skip
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


def write(directory: Path, dtype: str, size: int) -> None:
    """An adapter of about ``size`` bytes, rank 16, hidden size 4096, random values."""
    import ml_dtypes
    import numpy as np

    kind = {"F32": np.dtype("f4"), "F16": np.dtype("f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}[dtype]
    rng = np.random.default_rng(0)
    header: dict[str, object] = {}
    blocks: list[bytes] = []
    offset, layer = 0, 0
    while offset < size:
        for module in CONFIG["target_modules"]:
            for half, shape in (("A", (16, 4096)), ("B", (4096, 16))):
                data = (rng.standard_normal(shape, "f4") * 0.02).astype(kind).tobytes()
                name = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{half}.weight"
                header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
                offset += len(data)
                blocks.append(data)
        layer += 1
    text = json.dumps(header).encode()
    directory.mkdir()
    (directory / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blocks))
    (directory / "adapter_config.json").write_text(json.dumps(CONFIG))


def main() -> int:
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in ("F32", "BF16", "F16"):
            directory = Path(temporary, dtype)
            write(directory, dtype, 80_000_000)
            times = []
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            for _ in range(9):
                start = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-m", "loradoctor", "check", "--no-base", str(directory)], capture_output=True, text=True, check=False
                )
                times.append(time.perf_counter() - start)
                if done.returncode != 0:
                    print(done.stdout, done.stderr)
                    return 1
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(times)
            watched = subprocess.run([sys.executable, "-c", MEASURED, str(directory)], capture_output=True, text=True, check=False)
            peak = int(watched.stderr.rpartition("peak=")[2]) / 1024
            median = statistics.median(times)
            failed |= median > SECONDS or peak > MEGABYTES
            print(f"{dtype:4}  80 MB  {median:.3f} s (best {min(times):.3f}, processor {spent:.3f} s)  {peak:.0f} MB anonymous")
    print(
        f"limits: {SECONDS} s, {MEGABYTES} MB; largest child {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024} MB resident"
    )
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
