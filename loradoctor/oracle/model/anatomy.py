"""What a PEFT layer is made of: the module it adapts, the parameters it merges into, copies to try that on."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..proof.experts import is_wrapper, wrappers
from .base import is_hollow

REFUSALS = (NotImplementedError, RuntimeError, ValueError, AttributeError, TypeError)
"""what PEFT raises for a layer that it does not merge"""


OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


class Refused(Exception):
    """PEFT does not merge this layer. ``by_design`` when no layer of the kind merges; the text is one clause for the user."""

    def __init__(self, error: BaseException) -> None:
        text = str(error).strip().split("\n")[0]
        super().__init__(f"{type(error).__name__}: {text}" if text else type(error).__name__)
        self.by_design = isinstance(error, NotImplementedError)


def unloaded(layer: nn.Module) -> nn.Module:
    """The plain module that `merge_and_unload` leaves in the place of ``layer``. Raises :class:`Refused`."""
    # As BaseTuner._unload_and_optionally_merge treats one layer.
    with refusals():
        if hasattr(layer, "unload_and_optionally_merge_module"):
            module = layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
            assert isinstance(module, nn.Module)  # noqa: S101 -- PEFT's own promise
            return module
        layer.merge()
    return base_of(layer)


def merge(layer: Any) -> None:
    """PEFT's merge into the base of ``layer``. Raises :class:`Refused`."""
    with refusals():
        layer.merge()


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Tell PEFT's refusals in the block from accidents: raises :class:`Refused` for the former."""
    try:
        yield
    except OUT_OF_MEMORY:
        # A RuntimeError that says nothing about the adapter.
        raise
    except REFUSALS as error:
        raise Refused(error) from error


def base_of(layer: nn.Module) -> nn.Module:
    """The module of the base model that ``layer`` adapts."""
    base = layer.get_base_layer()
    assert isinstance(base, nn.Module)  # noqa: S101 -- PEFT's own promise
    return base


def base_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """What ``layer`` adapts, by the names in its module: all its parameters, or those that `target_parameters` names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = base_of(layer)
    parameters = dict(base.named_parameters())
    if is_wrapper(layer):
        return {w.parameter_name: parameters[w.parameter_name] for w in wrappers(layer)}
    # An attention module is adapted inside as well: its output projection is a layer of PEFT's by itself.
    inside = [f"{name}." for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)]
    return {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in parameters.items()
        if not any(name.startswith(outer) and not name.startswith(f"{outer}base_layer.") for outer in inside)
    }


def method(layer: nn.Module) -> str:
    """PEFT's name of the method, from the package that defines the layer: ``LORA``, ``OFT`` ..."""
    parts = type(layer).__module__.split(".")
    return parts[parts.index("tuners") + 1].upper() if "tuners" in parts else ""


def merges(layer: nn.Module) -> bool:
    """Whether layers of this class merge at all."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(layer, BaseTunerLayer) and type(layer).merge is not BaseTunerLayer.merge


def fill(layer: nn.Module) -> None:
    """Give values to the buffers of a copied ``layer`` that have none: the phantom's are computed when a model is built for real."""
    # The scale of Gemma's embeddings is one. Merging is linear in it, so any value shows whether PEFT scales the update as well;
    # 1 would hide that.
    for module in layer.modules():
        for name, buffer in module._buffers.items():  # noqa: SLF001 -- torch has no other way to replace one
            if buffer is not None and buffer.device.type == "meta":
                module._buffers[name] = torch.full(buffer.shape, 1.5, device="cpu").to(buffer.dtype)  # noqa: SLF001


def copies(
    layers: Mapping[str, nn.Module], dtype: torch.dtype | None, device: torch.device | str = "cpu"
) -> dict[str, nn.Module]:
    """Copies on ``device`` for evaluation, in ``dtype`` unless it is None."""
    # The base's parameters are made in the new dtype at once; one deepcopy call, so that what layers share is shared by the copies.
    kept: dict[int, Any] = {}
    for layer in layers.values():
        for p in base_of(layer).parameters():
            # A stand-in has nothing to copy, and a copy of it would have its full size.
            if id(p) not in kept and p.dtype.is_floating_point and not is_hollow(p.data):
                kept[id(p)] = nn.Parameter(p.data.to(device, dtype or p.dtype, copy=True), requires_grad=False)
    made = copy.deepcopy(dict(layers), kept)
    for layer in made.values():
        fill(layer)
        layer.eval()
        layer.to(device, dtype)
        for parameter in layer.parameters():
            parameter.requires_grad_(requires_grad=False)
    return made
