"""Speed and memory of the audit of a merged model, in the child process as `loradoctor check --merged` runs it.

    python benchmarks/audit_speed.py [--layers 12] [--dtype bfloat16] [--deltalint PYTHON] [--keep DIR]

The pair is made on the spot, shard by shard: twelve layers of 1536 x 6144 are 0.55 B parameters with 84 adapted modules, 165
layers 6.4 B. Weights per second counts the bytes of both models over the audit alone, and over the whole request (skeleton, PEFT's
load and the other loaders included), both after imports. Processor seconds are what a busy machine leaves comparable. Memory is
anonymous (`RssAnon`), above what a request without audit leaves behind. With `--deltalint` the same pair is given to that
interpreter's deltalint, whose import time is subtracted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ENTRY = Path(__file__).resolve().parent.parent / "loradoctor" / "oracle" / "__main__.py"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HIDDEN, INTERMEDIATE, VOCABULARY, RANK, ALPHA = 1536, 6144, 32000, 16, 32


def make(root: Path, layers: int, dtype: str) -> tuple[Path, Path, Path]:
    """(base, adapter, merged) below ``root``: a llama with random weights, a LoRA on every projection, and their merge."""
    import torch
    import transformers
    from safetensors.torch import save_file

    base, adapter, merged = root / "base", root / "adapter", root / "merged"
    kind = getattr(torch, dtype)
    config = transformers.LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=16,
        vocab_size=VOCABULARY, tie_word_embeddings=False, dtype=dtype, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    for directory in (base, merged):
        directory.mkdir(parents=True)
        config.save_pretrained(directory)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int, std: float = 0.02) -> Any:
        return torch.randn(*shape, generator=generator) * std

    shapes = dict.fromkeys(TARGETS[:4], (HIDDEN, HIDDEN)) | dict.fromkeys(TARGETS[4:6], (INTERMEDIATE, HIDDEN))
    shapes["down_proj"] = (HIDDEN, INTERMEDIATE)
    saved: dict[str, Any] = {}
    place: dict[str, str] = {}

    def shard(number: int, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        name = f"model-{number + 1:05}-of-{layers + 1:05}.safetensors"
        save_file(ours, base / name)
        save_file(theirs, merged / name)
        place.update(dict.fromkeys(ours, name))

    outer = {n: noise(VOCABULARY, HIDDEN).to(kind) for n in ("model.embed_tokens.weight", "lm_head.weight")}
    outer["model.norm.weight"] = torch.ones(HIDDEN, dtype=kind)
    shard(layers, outer, outer)
    for number in range(layers):
        prefix = f"model.layers.{number}."
        ours = {f"{prefix}{n}.weight": torch.ones(HIDDEN, dtype=kind) for n in ("input_layernorm", "post_attention_layernorm")}
        theirs = dict(ours)
        for target, shape in shapes.items():
            module = f"{prefix}{'self_attn' if target[0] in 'qkvo' else 'mlp'}.{target}"
            weight, a, b = noise(*shape).to(kind), noise(RANK, shape[1]), noise(shape[0], RANK)
            saved[f"base_model.model.{module}.lora_A.weight"], saved[f"base_model.model.{module}.lora_B.weight"] = a, b
            ours[f"{module}.weight"] = weight
            theirs[f"{module}.weight"] = (weight.float() + ALPHA / RANK * b @ a).to(kind)
        shard(number, ours, theirs)
    for directory in (base, merged):
        (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    adapter.mkdir()
    save_file(saved, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS), "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(base)}))
    return base, adapter, merged


class Child:
    """The torch side, and the most anonymous memory it has had since :meth:`forget`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, str(ENTRY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peak = 0
        self.watching = True
        threading.Thread(target=self._watch, daemon=True).start()

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        """The answer, and the seconds at which each stage began; ``""`` is the end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        started = time.monotonic()
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        stages: dict[str, float] = {}
        for line in self.process.stdout:
            event = json.loads(line)
            stages.setdefault(event.get("progress", ""), time.monotonic() - started)
            if "result" in event:
                return event["result"], stages
        raise SystemExit("the torch side ended early")

    def anonymous(self) -> int:
        """Bytes now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))

    def seconds(self) -> float:
        """Processor time so far, of all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget(self) -> int:
        """Start counting anew, from what there is now."""
        self.peak = self.anonymous()
        return self.peak

    def close(self) -> None:
        """End the process."""
        self.watching = False
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _watch(self) -> None:
        while self.watching:
            try:
                self.peak = max(self.peak, self.anonymous())
            except (OSError, StopIteration):
                return
            time.sleep(0.005)


def ours(base: Path, adapter: Path, merged: Path) -> dict[str, Any]:
    """Numbers of the audit."""
    child = Child()
    request = {"adapter": str(adapter), "base": str(base)}
    child.ask(request)
    resting = child.forget()
    used = child.seconds()
    _, before = child.ask(request)
    idle = child.seconds() - used
    answer, stages = child.ask({**request, "merged": str(merged)})
    used = child.seconds() - used - 2 * idle
    peak = child.peak
    child.close()
    audit = answer["audit"]
    alone = stages["the audit is done"] - stages["auditing the merged model"]
    return {
        "status": audit["status"],
        "reason": audit["reason"] or audit["faults"],
        "gigabytes": round(audit["bytes"] / 1e9, 2),
        "audit_s": round(alone, 2),
        "audit_processor_s": round(used, 2),
        "gigabytes_per_s": round(audit["bytes"] / 1e9 / alone, 2),
        "request_s": round(stages[""], 2),
        "request_without_audit_s": round(before[""], 2),
        "gigabytes_per_s_whole_request": round(audit["bytes"] / 1e9 / stages[""], 2),
        "anonymous_mb_above_rest": round((peak - resting) / 1e6),
    }


def theirs(python: str, base: Path, adapter: Path, merged: Path) -> dict[str, Any]:
    """Seconds of deltalint on the same pair, after its imports."""

    def run(*argv: str) -> float:
        started = time.monotonic()
        done = subprocess.run([python, *argv], capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        return time.monotonic() - started

    imports = min(run("-c", "import deltalint.cli, deltalint.check, torch, safetensors.torch") for _ in range(2))
    check = ["-c", "import sys; from deltalint.cli import main; sys.exit(main())", "check"]
    whole = run(*check, "--base", str(base), "--adapter", str(adapter), "--merged", str(merged))
    return {"deltalint_s": round(whole - imports, 2), "deltalint_imports_s": round(imports, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--deltalint", metavar="PYTHON", help="an interpreter that has deltalint")
    parser.add_argument("--keep", type=Path, help="make the models here, or use those that are here, and leave them")
    options = parser.parse_args()
    root = options.keep or Path(tempfile.mkdtemp())
    needed = 2.2 * 2 * (options.layers * 38e6 + 98e6) * (2 if options.dtype == "float32" else 1)
    if not (root / "base").is_dir() and shutil.disk_usage(root if root.is_dir() else ".").free < needed:
        raise SystemExit(f"there is no room for {needed / 1e9:.0f} GB")
    try:
        pair = (root / "base", root / "adapter", root / "merged") if (root / "base").is_dir() else make(root, options.layers, options.dtype)
        result = ours(*pair)
        if options.deltalint:
            result |= theirs(options.deltalint, *pair)
            result["times_faster_than_deltalint"] = round(result["deltalint_s"] / result["audit_s"], 1)
        print(json.dumps(result, indent=2))
    finally:
        if options.keep is None:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
