"""How long each loader takes on the torch side for an adapter of a 70B model, beyond the imports: `check_speed.py --loaders` runs it.

The base is the config of Llama 3 70B alone, the adapter has rank 16 on all seven projections of its 80 layers (414 MB in bfloat16). Prints
the median and the best of several runs in one process, and fails when a loader's best is above 3 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import tempfile
import time
from collections import defaultdict
from pathlib import Path

# One thread, as the child process of `check` has it, and nothing from the hub.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

SECONDS = 3.0
RANK = 16
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "max_position_embeddings": 8192, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "hidden_act": "silu",
}  # fmt: skip
WIDTHS = {
    "self_attn.q_proj": (8192, 8192), "self_attn.k_proj": (8192, 1024), "self_attn.v_proj": (8192, 1024), "self_attn.o_proj": (8192, 8192),
    "mlp.gate_proj": (8192, 28672), "mlp.up_proj": (8192, 28672), "mlp.down_proj": (28672, 8192),
}  # fmt: skip


def write(directory: Path) -> tuple[Path, Path]:
    """The base's config and the adapter, every element of which is 2⁻⁷."""
    base, adapter = directory / "base", directory / "adapter"
    base.mkdir()
    adapter.mkdir()
    (base / "config.json").write_text(json.dumps(CONFIG))
    header: dict[str, object] = {}
    end = 0
    for layer in range(80):
        for module, (read, written) in WIDTHS.items():
            for half, shape in (("A", (RANK, read)), ("B", (written, RANK))):
                start, end = end, end + 2 * shape[0] * shape[1]
                name = f"base_model.model.model.layers.{layer}.{module}.lora_{half}.weight"
                header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (adapter / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(end // 4096):
            file.write(b"\x00\x3c" * 2048)
        file.write(b"\x00\x3c" * (end % 4096 // 2))
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": RANK, "lora_alpha": 32}
    (adapter / "adapter_config.json").write_text(json.dumps({**fields, "target_modules": [m.rpartition(".")[2] for m in WIDTHS]}))
    return base, adapter


def measure(base: Path, adapter: Path, runs: int) -> tuple[dict[str, list[tuple[float, float]]], dict[str, str]]:
    """Stage of the torch side's work → wall and processor seconds in every run, and loader → status."""
    from loradoctor.oracle.session import serve

    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    status: dict[str, str] = {}
    for _ in range(runs):
        stage, since = "", (time.perf_counter(), time.process_time())

        def note(now: str) -> None:
            nonlocal stage, since
            at = (time.perf_counter(), time.process_time())
            if stage:
                spent[stage].append((at[0] - since[0], at[1] - since[1]))
            stage, since = now, at

        request = {"adapter": str(adapter), "base": str(base), "merge": True, "forward": False, "online": False, "num_labels": None}
        answer = serve(request, note)
        status = {row["loader"]: f"{row['status']} {row['loaded']} of {row['of']}" for row in answer["loaders"]}
    return spent, status


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 when a loader is too slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", action="store_true", help="judge by processor time, on a machine that has other things to do")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        spent, status = measure(*write(Path(temporary)), options.runs)
    slow = False
    for stage, seconds in spent.items():
        loader = stage.removeprefix("loading it with ")
        wall, processor = (min(times) for times in zip(*seconds, strict=True))
        slow |= loader in status and (processor if options.busy else wall) > SECONDS
        median = statistics.median(times[0] for times in seconds)
        print(f"{loader:40} {median:6.2f} s (best {wall:.2f}), processor {processor:.2f} s  {status.get(loader, '')}")
    print(f"limit per loader: {SECONDS:g} s")
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
