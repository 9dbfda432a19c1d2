"""No weights under a name that PEFT reads: what lies there instead, and what that means."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from loradoctor.checkpoint.fault import Fault, ReadError
from loradoctor.checkpoint.header import Header
from loradoctor.checkpoint.opening import opened

MISSING = "PEFT looks for `adapter_model.safetensors`, then `adapter_model.bin`, then asks the hub and stops with a misleading error"
_NAMED = (
    (re.compile(r"adapters\.safetensors"), "MLX writes this name"),
    (re.compile(r"pytorch_lora_weights\.(safetensors|bin)"), "diffusers writes this name"),
    (re.compile(r"adapter_\d+\.(safetensors|pt)|adapter_model\.pt"), "torchtune writes this name"),
    (re.compile(r"\d{7}_adapters\.safetensors"), "MLX writes this name during training"),
    (re.compile(r"adapter\.safetensors"), "not the name that PEFT reads"),
    (re.compile(r"model\.safetensors|pytorch_model\.bin"), "a full model, or an adapter under the wrong name"),
)
"""File names of other tools, in the order in which they are believed."""
_SHARD = re.compile(r"adapter_model-\d+-of-\d+\.(safetensors|bin)|adapter_model\.(safetensors|bin)\.index\.json")
_PARTITIONED = re.compile(
    r"global_step\d+|pytorch_model_fsdp(_\d+)?(\.bin)?|optimizer_\d+|zero_to_fp32\.py|.*mp_rank_\d+.*_states\.pt|.*\.distcp"
)
"""What DeepSpeed and FSDP leave: a part of the state per process, and the script that joins them."""
_LOOSE = (".safetensors", ".gguf", ".pt", ".pth", ".ckpt", ".bin")
_LOOKED_AT = 16
"""Files of unknown names that are opened to see whether they hold an adapter."""
_INDEX_LIMIT = 64 << 20
_LORA = re.compile(r"lora[_.]|hada_w|lokr_w")

Reader = Callable[[Path], Header]


@dataclass(frozen=True, slots=True)
class Found:
    """``path`` is a file whose tensors are worth a look although PEFT does not read it; ``fault`` is what there is to say."""

    path: Path | None
    fault: Fault | None


def is_shard(name: str) -> bool:
    """Whether a file is one of several that hold an adapter together."""
    return _SHARD.fullmatch(name) is not None


def is_other_tools(name: str) -> bool:
    """Whether another tool keeps its adapters under this name."""
    return any(pattern.fullmatch(name) for pattern, _ in _NAMED[:-1])


def is_partitioned(name: str) -> bool:
    """Whether a file or directory is a part of a distributed checkpoint."""
    return _PARTITIONED.fullmatch(name) is not None


def look(directory: Path, read: Reader) -> Found:
    """The most telling neighbour. Raises OSError when the directory cannot be listed."""
    entries = sorted(directory.iterdir())
    files = [p.name for p in entries if p.is_file()]
    if shards := [n for n in files if is_shard(n)]:
        return Found(None, _sharded(shards))
    known = [n for pattern, _ in _NAMED for n in files if pattern.fullmatch(n)]
    for name in (n for n in known if not _is_full_model(n)):
        if _is_damaged(directory / name, read):
            return Found(directory / name, None)
        if holds_adapter(directory / name, read):
            return Found(directory / name, None if _speaks_for_itself(directory / name, read) else _misnamed(known))
    if parts := [p.name for p in entries if is_partitioned(p.name)]:
        return Found(None, _partitioned(parts, known))
    if count := tensors_in_model(directory, read):
        return Found(None, _inside(count, known))
    if known:
        return Found(None, _misnamed(known))
    loose = loose_adapters(directory, read)
    if len(loose) == 1:
        return Found(loose[0], None if _speaks_for_itself(loose[0], read) else _misnamed([loose[0].name]))
    if loose:
        names = [p.name for p in loose]
        message = f"there are {len(loose)} adapter files here (`{names[0]}` …), none under a name that PEFT reads"
        return Found(None, Fault("no-weights", message, "name the file itself to check it", data={"cause": "several", "files": names}))
    return Found(None, Fault("no-weights", "there are no adapter weights here", MISSING, data={"cause": "absent", "files": []}))


def holds_adapter(path: Path, read: Reader) -> bool:
    """Whether a file has tensors of a low-rank adapter, quantized ones included; one that cannot be read has none."""
    try:
        return any(_LORA.search(name) for name in read(path).tensors)
    except ReadError as error:
        return error.fault.data.get("cause") == "gguf-quantized"
    except OSError:
        return False


def _is_damaged(path: Path, read: Reader) -> bool:
    try:
        read(path)
    except (ReadError, OSError):
        return True
    return False


def loose_adapters(directory: Path, read: Reader) -> list[Path]:
    """Files of any name that hold adapter tensors, at most some of them."""
    try:
        candidates = sorted(p for p in directory.iterdir() if p.suffix in _LOOSE and p.is_file())[:_LOOKED_AT]
    except OSError:
        return []
    return [p for p in candidates if not _is_full_model(p.name) and not is_partitioned(p.name) and holds_adapter(p, read)]


def tensors_in_model(directory: Path, read: Reader) -> int:
    """How many adapter tensors lie among the weights of a full model."""
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (names := _indexed(directory / name)) is not None:
            return _adapter_names(names)
    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            if (directory / name).is_file():
                return _adapter_names(read(directory / name).tensors)
        except (ReadError, OSError):
            continue
    return 0


def _adapter_names(names: Collection[str]) -> int:
    """How many are an adapter's, 0 when all are: then the file is one, under a model's name."""
    count = sum(1 for n in names if _LORA.search(n))
    return count if count < len(names) else 0


def _indexed(path: Path) -> list[str] | None:
    try:
        with opened(path) as file:
            raw = json.loads(file.read(_INDEX_LIMIT))
        return [str(n) for n in raw["weight_map"]]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def _is_full_model(name: str) -> bool:
    return _NAMED[-1][0].fullmatch(name) is not None or name.startswith(("model-", "pytorch_model-", "optimizer"))


def _speaks_for_itself(path: Path, read: Reader) -> bool:
    """Whether what is in a file is another tool's: then that is the finding, not the file's name."""
    from loradoctor.checkpoint.foreign import recognise

    try:
        return recognise(read(path).tensors, configured=False) is not None
    except ReadError:
        return True
    except OSError:
        return False


def _sharded(shards: Sequence[str]) -> Fault:
    parts = [n for n in shards if not n.endswith(".json")]
    message = f"the weights are in {len(parts)} shards (`{(parts or shards)[0]}` …), which PEFT does not read"
    help_ = f"{MISSING}: join the shards into one `adapter_model.safetensors` (`loradoctor repair` does it)"
    return Fault("no-weights", message, help_, data={"cause": "sharded", "files": list(shards)})


def _partitioned(parts: Sequence[str], known: Sequence[str]) -> Fault:
    fsdp = any("fsdp" in n or n.endswith(".distcp") for n in parts)
    how = "`accelerate merge-weights`" if fsdp else "`zero_to_fp32.py`"
    message = f"there are only partitioned states of {'FSDP' if fsdp else 'DeepSpeed'} here (`{parts[0]}`), no adapter weights"
    help_ = f"{MISSING}: gather them with {how} and save the adapter from the gathered model"
    return Fault("no-weights", message, help_, data={"cause": "partitioned", "files": [*parts, *known]})


def _inside(count: int, known: Sequence[str]) -> Fault:
    message = f"{count:,} adapter tensors lie among the weights of a full model: a PEFT model's `state_dict()` was saved as the model"
    help_ = (
        "transformers drops them with a warning and the model answers like its base; rank and targets can be read off the tensors, but "
        "`lora_alpha` is in none of the files: save again with `model.save_pretrained(...)` of the PEFT model, or merge first"
    )
    return Fault("no-weights", message, help_, data={"cause": "inside-a-model", "files": list(known), "count": count})


def _misnamed(known: Sequence[str]) -> Fault:
    meaning = next((says for pattern, says in _NAMED if pattern.fullmatch(known[0])), "not a name that PEFT reads")
    message = f"there are no adapter weights; `{known[0]}` is here ({meaning})"
    return Fault("no-weights", message, MISSING, data={"cause": "other-name", "files": list(known)})
