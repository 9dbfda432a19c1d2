"""Let PEFT load the adapter onto the phantom base and write down, key by key, what happens."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from .base import Base, hollow, is_hollow

ADAPTER = "default"

FROM_FILE = "_loradoctor_from_file"
"""mark on a parameter of the base whose value the adapter's file has replaced"""

FIRST, SECOND = "first", "second"
"""names of an adapter that is there already and of the one that is loaded beside it; neither is what a file has in its keys"""


@dataclass
class Outcome:
    """What PEFT did with the tensors of the file. Keys are the file's; ``mismatched`` holds [key, in file, in model]."""

    status: str = "raises"
    loaded: int = 0
    total: int = 0
    expected: dict[str, list[int]] = field(default_factory=dict)
    """every tensor that PEFT would save for this adapter on this base, and its shape"""
    missing: list[str] = field(default_factory=list)
    unsaved: list[str] = field(default_factory=list)
    """biases of adapted modules that were trained, when the file has none of them: releases of PEFT forgot to save these"""
    unexpected: list[str] = field(default_factory=list)
    overwritten: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, list[int], list[int]]] = field(default_factory=list)
    error_type: str = ""
    error: str = ""
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain data for the wire."""
        return asdict(self)


@dataclass
class _Record:
    adapter: str = ADAPTER
    only_adapted_biases: bool = False
    model: nn.Module | None = None
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    expected: dict[str, str | None] = field(default_factory=dict)
    given: Mapping[str, torch.Tensor] | None = None
    stored: frozenset[str] = frozenset()


def load(base: Base, directory: str, config: Any) -> tuple[Any, Outcome]:
    """``PeftModel.from_pretrained`` on the phantom base; returns the model (None when PEFT raised) and the outcome."""
    import peft

    def run() -> Any:
        return peft.PeftModel.from_pretrained(base.model, directory, adapter_name=ADAPTER, config=config, torch_device="cpu")

    return _observe(base, config, ADAPTER, run)


def load_beside(base: Base, directory: str, config: Any) -> Outcome:
    """``PeftModel.load_adapter`` under another name than ``default``, on a phantom base that has an adapter already."""
    import peft

    def run() -> Any:
        model = peft.get_peft_model(base.model, _companion(base, config), adapter_name=FIRST)
        # With the config given, PEFT reads only the weights; the config in the file may name modules to import.
        model.add_adapter(SECOND, copy.deepcopy(config))
        model.load_adapter(directory, adapter_name=SECOND, torch_device="cpu")
        return model

    return _observe(base, config, SECOND, run)[1]


def _companion(base: Base, config: Any) -> Any:
    """The adapter that is there first: for LoRA the smallest there is, else one like ``config``."""
    import peft

    linear = next((n for n, m in base.model.named_modules() if isinstance(m, nn.Linear)), None)
    if type(config) is not peft.LoraConfig or linear is None:
        return copy.deepcopy(config)
    return peft.LoraConfig(r=1, target_modules=[linear], task_type=config.task_type, init_lora_weights=False)


def _observe(base: Base, config: Any, adapter: str, run: Callable[[], Any]) -> tuple[Any, Outcome]:
    record = _Record(adapter, str(getattr(config, "bias", "")).endswith("_only"))
    outcome = Outcome()
    model = None
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with _watch(record, outcome), without_init(config):
            try:
                model = run()
                model.eval()
            except Exception as error:  # noqa: BLE001 -- whatever PEFT raises is the finding
                outcome.error_type = type(error).__name__
                outcome.error = str(error).strip()
    spoken = [w for w in heard if w.category in (UserWarning, RuntimeWarning)]
    outcome.warnings = sorted({str(w.message).strip().split("\n")[0] for w in spoken})
    _judge(outcome, record, base)
    _hollow_out(base)
    return model, outcome


def stored(directory: str) -> frozenset[str]:
    """The names of the tensors in the file that PEFT chooses. Raises what reading it raises."""
    from pathlib import Path

    from safetensors import safe_open

    path = Path(directory, "adapter_model.safetensors")
    if path.is_file():
        with safe_open(str(path), framework="pt") as file:
            return frozenset(file.keys())
    state = torch.load(Path(directory, "adapter_model.bin"), map_location="cpu", weights_only=True)
    return frozenset(state)


@contextlib.contextmanager
def without_init(config: Any) -> Iterator[None]:
    """Start the tensors of a new LoRA at zero: the file's values replace them, and what is missing there does nothing.

    Random numbers for two hundred million parameters take longer than everything else. Other methods may keep what they drew.
    """
    kind = getattr(config, "peft_type", None)
    if getattr(kind, "value", kind) != "LORA":
        yield
        return
    kept = {name: getattr(nn.init, name) for name in ("kaiming_uniform_", "uniform_", "normal_")}
    for name in kept:
        setattr(nn.init, name, lambda tensor, *_args, **_kwargs: nn.init.zeros_(tensor))
    try:
        with _without_magnitudes():
            yield
    finally:
        for name, function in kept.items():
            setattr(nn.init, name, function)


@contextlib.contextmanager
def _without_magnitudes() -> Iterator[None]:
    # DoRA starts from the norms of the weight, which it multiplies and adds up in full size; on a stand-in that is a gigabyte of
    # zeros for one layer of a large model. Only their shape matters here.
    try:
        from peft.tuners.lora.dora import DoraLinearLayer
    except ImportError:
        yield
        return
    update_layer = DoraLinearLayer.update_layer

    def only_shaped(self: Any, *, base_layer: Any, lora_A: torch.Tensor, lora_B: torch.Tensor, **rest: Any) -> None:  # noqa: N803
        shape = copy.copy(base_layer)
        shape._parameters = {  # noqa: SLF001 -- the copy's own
            name: parameter if parameter is None else nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
            for name, parameter in base_layer._parameters.items()  # noqa: SLF001
        }
        update_layer(self, base_layer=shape, lora_A=lora_A.to("meta"), lora_B=lora_B.to("meta"), **rest)
        self.weight = nn.Parameter(torch.zeros_like(self.weight, device="cpu"), requires_grad=True)

    DoraLinearLayer.update_layer = only_shaped
    try:
        yield
    finally:
        DoraLinearLayer.update_layer = update_layer


def _hollow_out(base: Base) -> None:
    # Some initialisations write to the base when a layer is created; on stand-ins that leaves zeros of full size behind.
    for parameter in base.model.parameters():
        own = id(parameter) in base.names and not getattr(parameter, FROM_FILE, False)
        if own and parameter.numel() > 1 and not is_hollow(parameter.data):
            parameter.data = hollow(parameter.shape, parameter.dtype)


@contextlib.contextmanager
def _watch(record: _Record, outcome: Outcome) -> Iterator[None]:
    # PEFT reports missing keys only, and only some of them; what it hands to torch is the whole truth.
    import peft.peft_model as target

    set_state, read, load_state = target.set_peft_model_state_dict, target.load_peft_weights, nn.Module.load_state_dict

    def reading(*args: Any, **kwargs: Any) -> Any:
        tensors = read(*args, **kwargs)
        outcome.total = len(tensors)
        record.stored = frozenset(tensors)
        return tensors

    def setting(model: nn.Module, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        record.model = model
        record.state = model.state_dict()
        record.expected = _expected(model, record.state, record.adapter)
        outcome.expected = {key: _shape(record, key, name) for key, name in record.expected.items()}
        return set_state(model, tensors, *args, **kwargs)

    def loading(module: nn.Module, tensors: Mapping[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if module is record.model and record.given is None:
            record.given = tensors
            make_room(module, tensors)
        return load_state(module, tensors, *args, **kwargs)

    target.set_peft_model_state_dict, target.load_peft_weights = setting, reading
    nn.Module.load_state_dict = loading
    try:
        yield
    finally:
        target.set_peft_model_state_dict, target.load_peft_weights = set_state, read
        nn.Module.load_state_dict = load_state


def _expected(model: nn.Module, state: dict[str, torch.Tensor], adapter: str) -> dict[str, str | None]:
    # The tensors pass through by identity, which tells the model's name of everything PEFT would save.
    from peft import get_peft_model_state_dict

    names = {id(tensor): name for name, tensor in state.items()}
    saved = get_peft_model_state_dict(model, state_dict=dict(state), adapter_name=adapter, save_embedding_layers=False)
    return {key: names.get(id(tensor)) for key, tensor in saved.items()}


def _shape(record: _Record, key: str, name: str | None) -> list[int]:
    tensor = record.state.get(name or key)
    return [] if tensor is None else list(tensor.shape)


def make_room(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give the stand-ins that ``tensors`` are written to memory of their own: saved embeddings, biases, injected weights."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in tensors and is_hollow(parameter.data):
            parameter.data = torch.zeros(parameter.shape, dtype=parameter.dtype)
            setattr(parameter, FROM_FILE, True)


def _judge(outcome: Outcome, record: _Record, base: Base) -> None:
    if record.model is None or record.given is None:
        return
    given, state = record.given, record.state
    mapped = {name for name in record.expected.values() if name}
    base_names = {n for n, p in record.model.named_parameters(remove_duplicate=False) if id(p) in base.names}
    shown = {name: key for key, name in record.expected.items() if name}
    landed = {key for key in given if key in state}
    outcome.mismatched = [
        (shown.get(key, key), list(given[key].shape), list(state[key].shape))
        for key in given
        if key in state and given[key].shape != state[key].shape
    ]
    # Some methods consume or regenerate what they save (prompt embeddings, SHiRA's indices, VeRA's shared projections): a key
    # that PEFT itself would write is neither missing nor unexpected when the file has it.
    outcome.missing = [k for k, name in record.expected.items() if (name or k) not in given and k not in record.stored]
    biases = [k for k in record.expected if k.endswith(".base_layer.bias")]
    if record.only_adapted_biases and set(biases) <= set(outcome.missing):
        outcome.unsaved = biases
        outcome.missing = [k for k in outcome.missing if k not in set(biases)]
    left = [_in_file(key, record) for key in given if key not in state]
    outcome.unexpected = [key for key in left if key not in record.expected and not _double(key, record)]
    inactive = ".original_module."
    outcome.overwritten = sorted(key for key in landed & base_names if key not in mapped and inactive not in key)
    outcome.loaded = max(0, outcome.total - len(outcome.unexpected) - len(outcome.mismatched))
    hit = len(record.expected) - len(outcome.missing) - len(outcome.unsaved)
    if outcome.error_type:
        outcome.status = "raises"
        outcome.loaded = 0
    elif record.expected and not hit:
        outcome.status = "not-at-all"
        outcome.loaded = len(outcome.overwritten)
    else:
        outcome.status = "partly" if outcome.missing or outcome.unexpected else "fully"


def _in_file(key: str, record: _Record) -> str:
    # PEFT before 0.18 inserts the adapter's name into every key, also into those that match nothing.
    if key in record.stored:
        return key
    name = record.adapter
    plain = key.replace(f".{name}.", ".") if f".{name}." in key else key.removesuffix(f".{name}")
    return plain if plain in record.stored else key


def _double(key: str, record: _Record) -> bool:
    # When the vocabulary was resized, PEFT saves `lm_head.modules_to_save.weight` beside the `lm_head.weight` that it loads.
    return ".modules_to_save." in key and key.replace(".modules_to_save.", ".", 1) in record.stored
