"""What each loader that people use makes of the adapter: how many tensors of the file reach the model, and why not all."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ..session import first_line
from . import pipeline as pipelines
from .base import BUILD_ERRORS, Base, phantom
from .load import ADAPTER, FROM_FILE, Outcome, load_beside, make_room, stored, without_init

FROM_PRETRAINED = "PeftModel.from_pretrained"
LOAD_ADAPTER = "PeftModel.load_adapter"
TRANSFORMERS = "transformers load_adapter"
DIFFUSERS = "diffusers load_lora_weights"

_STATUS = {"fully": "full", "partly": "partial", "not-at-all": "none", "raises": "raises"}


@dataclass
class Row:
    """One loader: ``status`` is full, partial, none, raises or not-run; ``loaded`` of the file's ``of`` tensors arrive."""

    loader: str
    status: str
    loaded: int = 0
    of: int = 0
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data for the wire."""
        return asdict(self)


def row(loader: str, outcome: Outcome) -> Row:
    """What PEFT's own loaders did, told like that of the others."""
    if outcome.mismatched:
        key, found, wanted = outcome.mismatched[0]
        reason = _mismatch(outcome.error_type, len(outcome.mismatched), key, found, wanted)
        return Row(loader, "raises", 0, outcome.total, reason)
    if outcome.status == "raises":
        return Row(loader, "raises", 0, outcome.total, _error(outcome.error_type, outcome.error))
    parts = [
        _several(outcome.missing, "missing"),
        _several(outcome.unexpected, "unused"),
        _several(outcome.overwritten, "written over the base"),
        _several(outcome.unsaved, "biases left as the base has them"),
    ]
    return Row(loader, _STATUS[outcome.status], outcome.loaded, outcome.total, "; ".join(filter(None, parts)))


def others(base: Base, directory: str, config: Any, total: int, progress: Callable[[str], None]) -> list[Row]:
    """What the other loaders do with the adapter in ``directory``, each on a base of its own. ``config`` is PEFT's, disarmed."""
    loaders = {LOAD_ADAPTER: _beside, TRANSFORMERS: _by_transformers, DIFFUSERS: _by_diffusers}
    found = []
    for loader, run in loaders.items():
        progress(f"loading it with {loader}")
        try:
            found.append(run(base.again(), directory, copy.deepcopy(config)))
        except BUILD_ERRORS as error:
            found.append(Row(loader, "raises", 0, total, first_line(error)))
    return found


def _beside(base: Base, directory: str, config: Any) -> Row:
    return row(LOAD_ADAPTER, load_beside(base, directory, config))


def _by_transformers(base: Base, directory: str, config: Any) -> Row:
    names = stored(directory)
    model: Any = base.model
    if not hasattr(model, "load_adapter"):
        return Row(TRANSFORMERS, "not-run", 0, len(names), f"`{base.class_name}` has no `load_adapter`")
    own = {id(p): p for p in model.parameters()}  # holding on to them keeps their ids from being used again
    heard: list[Any] = []
    try:
        with warnings.catch_warnings(), _overheard(model, heard), without_init(config):
            warnings.simplefilter("ignore")
            info = model.load_adapter(directory, adapter_name=ADAPTER, peft_config=config)
    except Exception as error:  # noqa: BLE001 -- whatever the loader raises is the result
        reason = _shapes(heard, type(error).__name__) or _error(type(error).__name__, str(error).strip())
        return Row(TRANSFORMERS, "raises", 0, len(names), reason)
    report = info if info is not None else next(iter(heard), None)
    added = {n for n, p in model.named_parameters(remove_duplicate=False) if id(p) not in own or getattr(p, FROM_FILE, False)}
    bases = {name for group in base.names.values() for name in group}
    return _judged(report, added, names, sorted(n for n in added if n.replace(".base_layer.", ".") in bases))


def _by_diffusers(base: Base, directory: str, _: Any) -> Row:
    names = stored(directory)
    if base.pipeline is None:
        return Row(DIFFUSERS, "not-run", 0, len(names), f"`{base.class_name}` is no part of a diffusion pipeline")
    try:
        loaded = pipelines.load(base.pipeline, directory, phantom)
    except pipelines.NoPipeline as error:
        return Row(DIFFUSERS, "not-run", 0, len(names), str(error))
    except Exception as error:  # noqa: BLE001 -- whatever the loader raises is the result
        return Row(DIFFUSERS, "raises", 0, len(names), _error(type(error).__name__, str(error).strip()))
    if not loaded:
        prefixes = ", ".join(f"`{part}.`" for part in base.pipeline.parts)
        return Row(DIFFUSERS, "none", 0, len(names), f"it takes keys that begin with {prefixes}, and says so in its log only")
    # The scale of a module (`….alpha`) is a number, no tensor of the model.
    wanted = sum(not name.endswith(".alpha") for name in names)
    return Row(DIFFUSERS, "full" if loaded >= wanted else "partial", min(loaded, wanted), wanted)


def _judged(report: Any, added: set[str], names: frozenset[str], overwritten: list[str]) -> Row:
    """The row for what ``load_adapter`` of transformers returned; before 5 it returned nothing, and PEFT's report is read."""
    if report is None:
        return Row(TRANSFORMERS, "not-run", 0, len(names), "this release does not say what it loaded")
    missing = [key for key in getattr(report, "missing_keys", ()) or () if key in added and key not in overwritten]
    unused = sorted(_names(report, "unexpected_keys") | _names(report, "conversion_errors") | _names(report, "mismatched_keys"))
    loaded = max(0, len(names) - len(unused))
    parts = [
        _several([_in_file(k) for k in sorted(missing)], "missing"),
        _several([_in_file(k) for k in unused], "unused"),
        _several(overwritten, "written over the base"),
    ]
    reason = "; ".join(filter(None, parts))
    if (names and not loaded) or (added and len(missing) == len(added)):
        return Row(TRANSFORMERS, "none", 0, len(names), reason)
    return Row(TRANSFORMERS, "partial" if missing or unused else "full", loaded, len(names), reason)


def _shapes(heard: list[Any], kind: str) -> str:
    """The first tensor of another shape, as transformers 5 lists them; ``""`` when there is none."""
    found = sorted(entry for report in heard for entry in getattr(report, "mismatched_keys", None) or () if isinstance(entry, tuple))
    if not found or len(found[0]) < 3:
        return ""
    key, stored_shape, wanted = found[0][:3]
    return _mismatch(kind, len(found), _in_file(str(key)), list(stored_shape), list(wanted))


def _mismatch(kind: str, count: int, key: str, found: list[int], wanted: list[int]) -> str:
    return f"{kind}: {count} of another shape, first `{key}`: {found} in the file, {wanted} wanted"


def _names(report: Any, kind: str) -> set[str]:
    found = getattr(report, kind, None) or ()
    return {str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in found}


def _in_file(key: str) -> str:
    return key.replace(f".{ADAPTER}.", ".").removesuffix(f".{ADAPTER}")


@contextlib.contextmanager
def _overheard(model: Any, heard: list[Any]) -> Iterator[None]:
    """Collect in ``heard`` what the load itself reports: transformers 5 raises before it hands that on, 4 keeps it to itself."""
    import peft.utils as target

    load_pretrained = getattr(model, "_load_pretrained_model", None)

    def pretrained(*args: Any, **kwargs: Any) -> Any:
        result = load_pretrained(*args, **kwargs)  # type: ignore[misc]
        heard.append(result[0] if isinstance(result, tuple) else result)
        return result

    set_state, load_state = target.set_peft_model_state_dict, nn.Module.load_state_dict

    def loading(module: nn.Module, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        make_room(module, tensors)
        return load_state(module, tensors, *args, **kwargs)

    def setting(*args: Any, **kwargs: Any) -> Any:
        nn.Module.load_state_dict = loading
        try:
            heard.append(set_state(*args, **kwargs))
        finally:
            nn.Module.load_state_dict = load_state
        return heard[-1]

    target.set_peft_model_state_dict = setting
    if load_pretrained is not None:
        object.__setattr__(model, "_load_pretrained_model", pretrained)
    try:
        yield
    finally:
        target.set_peft_model_state_dict = set_state


def _several(keys: list[str], what: str) -> str:
    return f"{len(keys)} {what}, first `{keys[0]}`" if keys else ""


def _error(kind: str, text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # torch's `Error(s) in loading state_dict for X:` says nothing; what is wrong stands on the next line.
    first = lines[1] if len(lines) > 1 and lines[0].endswith(":") else "".join(lines[:1])
    return f"{kind}: {first}".rstrip(": ")
