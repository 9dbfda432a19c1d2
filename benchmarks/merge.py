"""The streaming merge beside PEFT's own way, on bases made on the spot: seconds, peak of anonymous memory, equal files.

    python benchmarks/merge.py 0.1 0.5 1.5            billions of parameters
    python benchmarks/merge.py 0.5 --kills 20         kill -9 at random moments, then a rerun each time

"PEFT's way" is `from_pretrained`, `PeftModel.from_pretrained`, `merge_and_unload`, `save_pretrained` in one process. Memory is RssAnon
(of the process, or of both processes together) sampled from /proc, and also above what the imports alone take. Both ways see
the same warm page cache, one after the other, best of ``--rounds``.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SIZES = {
    "0.1": (768, 2048, 10, 12, 16384), "0.5": (1024, 4096, 28, 16, 32768), "1.5": (2048, 5632, 26, 16, 32768),
    "3": (2560, 8192, 32, 20, 49152), "7": (4096, 11008, 32, 32, 32768),
}  # fmt: skip
"""billions → hidden, intermediate, layers, heads, vocabulary"""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 16
SHARD = 5_000_000_000

PEFT_WAY = """
import sys, time
import torch, transformers, peft
print("imported", flush=True)
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
model = peft.PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload()
model.save_pretrained(sys.argv[3])
"""
IMPORTS = "import torch, transformers, peft, transformers.modeling_utils, transformers.models.llama.modeling_llama, time; time.sleep(1)"


def base(directory: Path, size: str) -> int:
    """Write a llama in bf16; the number of its parameters."""
    import torch
    import transformers
    from safetensors.torch import save_file

    hidden, intermediate, layers, heads, vocabulary = SIZES[size]
    config = transformers.LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, vocab_size=vocabulary, tie_word_embeddings=False, dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    directory.mkdir(parents=True)
    config.save_pretrained(directory)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in transformers.LlamaForCausalLM(config).named_parameters()}
    noise = (torch.randn(2**24, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
    shards: list[dict[str, torch.Size]] = [{}]
    for name, shape in sorted(shapes.items()):
        if sum(s.numel() * 2 for s in shards[-1].values()) + shape.numel() * 2 > SHARD:
            shards.append({})
        shards[-1][name] = shape
    table = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        tensors = {n: noise.roll(len(n)).repeat(-(-s.numel() // len(noise)))[: s.numel()].view(s) for n, s in shard.items()}
        save_file(tensors, directory / file, metadata={"format": "pt"})
        table.update(dict.fromkeys(shard, file))
    if len(shards) > 1:
        (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return sum(s.numel() for s in shapes.values())


def adapter(directory: Path, of: Path) -> None:
    """Write a LoRA for every linear layer."""
    import peft
    import torch
    import transformers
    from safetensors.torch import save_file

    config = transformers.AutoConfig.from_pretrained(of)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, module in model.named_modules():
        if name.endswith(TARGETS):
            rows, columns = module.weight.shape
            key = f"base_model.model.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) * 0.02
            tensors[f"{key}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) * 0.02
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    fields = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM"}
    peft.LoraConfig(**fields, base_model_name_or_path=str(of), inference_mode=True).save_pretrained(directory)


def anonymous(pid: int, spent: dict[int, float]) -> int:
    """RssAnon of a process and its children, in bytes; ``spent`` learns the processor seconds of each."""
    total = 0
    with contextlib.suppress(OSError, ValueError):
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        spent[pid] = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) * 1024
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += anonymous(int(child), spent)
    return total


def measured(command: list[str]) -> tuple[float, float, int]:
    """Seconds, seconds of all processors, and the peak of anonymous memory in bytes. Raises CalledProcessError with what it said."""
    started = time.monotonic()
    spent: dict[int, float] = {}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak, over = 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not over.wait(0.01):
            peak = max(peak, anonymous(process.pid, spent))

    thread = threading.Thread(target=look)
    thread.start()
    said, _ = process.communicate()
    seconds = time.monotonic() - started
    over.set()
    thread.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said)
    return seconds, sum(spent.values()), peak


def ours(adapter_at: Path, base_at: Path, output: Path) -> list[str]:
    """The command that is measured."""
    return [sys.executable, "-m", "loradoctor", "merge", str(adapter_at), "--base", str(base_at), "--output", str(output)]


def row(size: str, here: Path, rounds: int) -> None:
    """One line of the table."""
    parameters = base(here / "base", size)
    adapter(here / "adapter", here / "base")
    nbytes = parameters * 2
    os.sync()
    *_, imports = measured([sys.executable, "-c", IMPORTS])
    best: dict[str, tuple[float, float, int]] = {}
    for _ in range(rounds):
        commands = {"ours": ours(here / "adapter", here / "base", here / "ours")}
        # The output of both and the base must fit.
        if shutil.disk_usage(here).free > 2.2 * nbytes:
            commands["peft"] = [sys.executable, "-c", PEFT_WAY, str(here / "base"), str(here / "adapter"), str(here / "peft")]
        for name, command in reversed(commands.items()):
            shutil.rmtree(here / name, ignore_errors=True)
            os.sync()
            found = measured(command)
            best[name] = tuple(map(min, found, best.get(name, found)))
    (ours_s, ours_c, ours_m), (peft_s, peft_c, peft_m) = best["ours"], best["peft"]
    same = all(filecmp.cmp(file, here / "ours" / file.name, shallow=False) for file in (here / "peft").iterdir())
    above = max(1, ours_m - imports)
    print(
        f"{parameters / 1e9:5.2f} B  ours {ours_s:6.1f} s (cpu {ours_c:.1f}) {ours_m / 2**20:7.0f} MiB (+{above / 2**20:.0f})   "
        f"PEFT {peft_s:6.1f} s (cpu {peft_c:.1f}) {peft_m / 2**20:7.0f} MiB (+{(peft_m - imports) / 2**20:.0f})   "
        f"time 1/{peft_s / ours_s:.2f}, memory 1/{peft_m / ours_m:.1f}, above imports 1/{(peft_m - imports) / above:.1f}   "
        f"files {'equal' if same else 'DIFFER'}",
        flush=True,
    )


def kills(size: str, here: Path, count: int) -> None:
    """Kill a merge at random moments; the output must never be there before it is whole, and a rerun must complete it."""
    base(here / "base", size)
    adapter(here / "adapter", here / "base")
    output = here / "ours"
    command = ours(here / "adapter", here / "base", output)
    seconds, *_ = measured(command)
    (here / "right").mkdir()
    for file in output.iterdir():
        file.rename(here / "right" / file.name)
    output.rmdir()
    chance = random.Random(0)
    for number in range(count):
        # Nine of ten while it writes, audits or moves; the others before.
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = time.monotonic()
        if chance.random() < 0.9:
            while not _partial(here) and process.poll() is None:
                time.sleep(0.002)
        begun = time.monotonic() - started
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, max(0.1, seconds - begun)))
        _kill(process.pid, both=chance.random() < 0.5)
        process.wait()
        when = time.monotonic() - started
        there = sum(file.stat().st_blocks for directory in _partial(here) for file in directory.iterdir()) * 512 / 1e6
        finished = output.exists()
        if not finished:
            done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            kept = json.loads(done.stdout)["merge"]["kept"]
        said = "it had finished" if finished else f"{kept / 1e6:.0f} MB kept"
        assert all(filecmp.cmp(file, output / file.name, shallow=False) for file in (here / "right").iterdir()), "the output is not right"
        assert not _partial(here), "something is left over"
        print(f"{number + 1:3d}: killed after {when:5.2f} s with {there:5.0f} MB on disk; then complete and equal, {said}", flush=True)
        shutil.rmtree(output)


def _partial(here: Path) -> list[Path]:
    return [path for path in here.iterdir() if ".partial-" in path.name and path.is_dir()]


def _kill(pid: int, *, both: bool) -> None:
    """The command alone, whose child then has to notice, or both."""
    children: list[str] = []
    if both:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in (pid, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="+", choices=tuple(SIZES))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--at", type=Path, help="where to write, some 3 times the size of the base")
    options = parser.parse_args()
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.at) as made:
            if options.kills:
                kills(size, Path(made), options.kills)
            else:
                row(size, Path(made), options.rounds)


if __name__ == "__main__":
    main()
