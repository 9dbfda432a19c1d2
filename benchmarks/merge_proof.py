"""Time and memory of the per-layer merge proof, in the child process as `loradoctor check` runs it.

    python benchmarks/merge_proof.py [--kind lora|dora|loha] [--model small|wide|experts] [--keep DIR]

``small`` is 24 layers of 1024 x 2816 with 168 adapted modules (0.4 B parameters), ``wide`` one 8192 x 28672 projection of a 70 B
model, ``experts`` one fused stack of experts; all in bfloat16 and made on the spot. Memory is anonymous memory (`RssAnon`): the
base's files are mapped, and their pages are the kernel's to drop. What imports and the model's skeleton take is measured with a
request without merge and subtracted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ENTRY = Path(__file__).resolve().parent.parent / "loradoctor" / "oracle" / "__main__.py"
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 32000},
    "wide": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 1, "num_attention_heads": 64, "vocab_size": 256},
    "experts": {"hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16, "vocab_size": 256},
}
TARGETS = {"small": EVERY, "wide": ["up_proj"], "experts": ["q_proj"]}


def make(model: str, kind: str, root: Path) -> tuple[Path, Path]:
    """A base and an adapter of ``kind`` on it: (base, adapter)."""
    import peft
    import torch
    import transformers

    base, adapter = root / f"{model}-base", root / f"{model}-{kind}"
    torch.manual_seed(0)
    sizes = SIZES[model]
    if model == "experts":
        config: Any = transformers.MixtralConfig(**sizes, num_key_value_heads=4, num_local_experts=16)
    else:
        config = transformers.LlamaConfig(**sizes, num_key_value_heads=sizes["num_attention_heads"] // 4)
    if not (base / "config.json").is_file():
        with torch.device("meta"):
            whole = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        whole = whole.to_empty(device="cpu")
        for parameter in whole.parameters():
            parameter.data.normal_(std=0.02)
        whole.save_pretrained(base)
        del whole
    if not (adapter / "adapter_config.json").is_file():
        skeleton = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        fields: dict[str, Any] = {"target_modules": TARGETS[model], "task_type": "CAUSAL_LM"}
        if model == "experts":
            fields["target_parameters"] = ["experts.gate_up_proj", "experts.down_proj"]
        settings = peft.LoHaConfig(r=16, **fields) if kind == "loha" else peft.LoraConfig(r=16, use_dora=kind == "dora", **fields)
        wrapped = peft.get_peft_model(skeleton, settings)
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.data.normal_(std=0.01)
        wrapped.save_pretrained(adapter)
    return base, adapter


def processor_seconds(pid: int) -> float:
    """Time that a process has had on a processor: what a busy machine does not change."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(request: dict[str, Any]) -> tuple[float, float, int, dict[str, Any]]:
    """One request to a fresh child: seconds and processor seconds of the merge proof, the largest anonymous memory, the answer."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, str(ENTRY)]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment)
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                status = Path(f"/proc/{child.pid}/status").read_text()
            except OSError:
                return
            anonymous = next((line for line in status.splitlines() if line.startswith("RssAnon")), "RssAnon: 0 kB")
            peak[0] = max(peak[0], int(anonymous.split()[1]) * 1024)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(request) + "\n")
    child.stdin.close()
    started, began, seconds, worked = 0.0, 0.0, 0.0, 0.0
    merging = False
    answer: dict[str, Any] = {}
    for line in child.stdout:
        event = json.loads(line)
        said = str(event.get("progress", ""))
        if said.startswith("merging module 1 "):
            started, began, merging = time.perf_counter(), processor_seconds(child.pid), True
        elif merging and not said.startswith("merging"):
            seconds, worked, merging = time.perf_counter() - started, processor_seconds(child.pid) - began, False
        answer = event.get("result", answer)
    done.set()
    child.wait()
    return seconds, worked, peak[0], answer


def main() -> None:
    """Make the model, run the proof, print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("lora", "dora", "loha"), default="lora")
    parser.add_argument("--model", choices=tuple(SIZES), default="small")
    parser.add_argument("--keep", type=Path, help="make the model here and leave it, to measure again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base, adapter = make(options.model, options.kind, options.keep or Path(scratch))
        request = {"adapter": str(adapter), "base": str(base), "online": False, "num_labels": None, "forward": False}
        _, _, idle, _ = ask({**request, "merge": False})
        seconds, worked, peak, answer = ask({**request, "merge": True})
    states = sorted({(m["status"], m["reason"]) for m in answer.get("merge", ())})
    print(f"{options.model} {options.kind}: {len(answer.get('merge', ()))} modules in {seconds:.1f} s ({worked:.1f} s of a processor), "
          f"{(peak - idle) / 2**20:.0f} MiB above {idle / 2**20:.0f} MiB; {states} {answer.get('merge_error', '')}")


if __name__ == "__main__":
    main()
