"""LoRA on a parameter itself (`target_parameters`), as on fused experts: PEFT's wrapper is run on some experts at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .inputs import VECTORS

PART = 2**20
"""elements of a part at least: one expert of a middling model. Wrapping a parameter costs a millisecond of calls."""


def is_wrapper(layer: nn.Module) -> bool:
    """Whether ``layer`` adapts a parameter rather than a module."""
    return type(layer).__name__ == "ParamWrapper"


def wrappers(layer: nn.Module) -> list[Any]:
    """``layer`` and the wrappers inside it, outermost first: one per adapted parameter of the module."""
    found: list[Any] = []
    current: Any = layer
    while is_wrapper(current):
        found.append(current)
        current = current.base_layer
    return found


class Reader(nn.Module):  # type: ignore[misc]  # torch is not typed for this check
    """Stands for the module that owns the parameter: all its forward sees of the adapter is the parameter's value."""

    def __init__(self, wrapper: Any) -> None:
        super().__init__()
        self.name = wrapper.parameter_name
        self.is_transposed = getattr(wrapper.get_base_layer(), "is_transposed", False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``inputs`` (vectors, p) through a parameter (p, q) or (experts, p, q)."""
        return inputs @ getattr(self, self.name)


class ExpertCopy:
    """PEFT's wrapper in ``dtype`` on ``device`` around one part of the parameter."""

    def __init__(self, wrapper: Any, dtype: torch.dtype | None, device: torch.device | str) -> None:
        self._experts, self._dtype, self._device = wrapper.num_experts, dtype, device
        self._reader = Reader(wrapper)
        self.layer: Any = copy.deepcopy(wrapper, {id(wrapper.base_layer): self._reader})
        self.layer.eval().requires_grad_(requires_grad=False).to(device, dtype)
        self._adapter = next(n for n in wrapper.active_adapters if n in wrapper.lora_A)
        self._a = self.layer.lora_A[self._adapter].weight.data
        self._b = self.layer.lora_B[self._adapter].weight.data

    def take(self, part: slice, values: torch.Tensor) -> None:
        """Be the wrapper of these experts, whose ``values`` are given, not merged; of the whole parameter when it holds no experts."""
        experts = self._experts
        self.layer.merged_adapters.clear()
        if values.dim() == 3:
            # peft/tuners/lora/layer.py, ParamWrapper.get_delta_weight: A is (experts * r, in), B is (out, r * experts).
            a = self._a.view(experts, -1, self._a.shape[1])[part]
            b = self._b.view(self._b.shape[0], -1, experts)[:, :, part]
            self.layer.num_experts = values.shape[0]
            self.layer.lora_A[self._adapter].weight = _fixed(a.reshape(-1, a.shape[-1]))
            self.layer.lora_B[self._adapter].weight = _fixed(b.reshape(b.shape[0], -1))
        own = values.to(self._device, self._dtype or values.dtype, copy=True)
        self._reader.register_parameter(self._reader.name, _fixed(own))

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """PEFT's forward: what the module would compute with."""
        result = self.layer(inputs)
        assert isinstance(result, torch.Tensor)  # noqa: S101 -- a Reader's
        return result

    @property
    def weight(self) -> torch.Tensor:
        """The part of the parameter as it is now."""
        value = getattr(self._reader, self._reader.name)
        assert isinstance(value, torch.Tensor)  # noqa: S101 -- registered by take()
        return value.data


Source = Callable[[slice], torch.Tensor]
"""reads some experts of a parameter"""


def whole(wrapper: Any) -> Source:
    """The source that is the parameter itself."""
    return lambda part: parameter(wrapper)[part]


def parameter(wrapper: Any) -> torch.Tensor:
    """The base's parameter that ``wrapper`` adapts."""
    value = wrapper.get_param()
    assert isinstance(value, torch.Tensor)  # noqa: S101 -- PEFT's own promise
    return value.data


def parts(wrapper: Any) -> Iterator[slice]:
    """The experts, some at a time."""
    values = parameter(wrapper)
    if values.dim() != 3:
        yield slice(0, values.shape[0])
        return
    step = max(1, PART // values[0].numel())
    for start in range(0, values.shape[0], step):
        yield slice(start, min(start + step, values.shape[0]))


def inputs(wrapper: Any, device: torch.device | str) -> torch.Tensor:
    """Noise in float64 for :class:`Reader`."""
    rows = parameter(wrapper).shape[-2]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(VECTORS, rows, generator=generator, dtype=torch.float64).to(device)


def _fixed(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
