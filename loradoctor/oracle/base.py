"""The base model as a phantom: every module and shape of it, and no memory for its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

# peft.utils.peft_types.TaskType → the class of transformers that a user of that task loads the base with
AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


class Unbuildable(Exception):
    """The base model cannot be built from its config here; the message says why."""


@dataclass(frozen=True)
class Base:
    """A model without weights, its class, and the name each of its parameters has in the model."""

    model: nn.Module
    class_name: str
    names: dict[int, tuple[str, ...]]
    """``id(parameter)`` → every name it has in the base model; more than one when weights are tied"""


def build(reference: str, adapter: dict[str, Any], *, online: bool, num_labels: int | None) -> Base:
    """Build the base model on the meta device with the class that the adapter's task calls for.

    ``reference`` is a directory or a hub id, ``adapter`` the adapter's config. Raises :class:`Unbuildable`.
    """
    from transformers import AutoConfig

    extra = {"num_labels": num_labels} if num_labels else {}
    try:
        config = AutoConfig.from_pretrained(
            reference, revision=revision(reference, adapter), local_files_only=not online, trust_remote_code=False, **extra
        )
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise Unbuildable(_why(error)) from error
    problems: list[str] = []
    for candidate in _candidates(config, adapter):
        try:
            with torch.device("meta"):
                model = candidate(config)
        except (ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
            problems.append(_why(error))
        else:
            return Base(phantom(model), type(model).__name__, parameter_names(model))
    raise Unbuildable(problems[0] if problems else "its config names no model class that the installed transformers has")


def revision(reference: str, adapter: dict[str, Any]) -> str:
    """The revision of the base that the adapter was trained on, when ``reference`` is the base it names; else ``main``."""
    named = adapter.get("revision") if reference == adapter.get("base_model_name_or_path") else None
    return named if isinstance(named, str) and named else "main"


def _candidates(config: Any, adapter: dict[str, Any]) -> list[Any]:
    import transformers

    def auto(name: str) -> Any:
        return lambda c: getattr(transformers, name).from_config(c, trust_remote_code=False)

    def concrete(name: Any) -> Any:
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return cast("Any", found)._from_config  # noqa: SLF001 -- what AutoModel.from_config calls
        return None

    mapping = adapter.get("auto_mapping")
    first = concrete(mapping.get("base_model_class")) if isinstance(mapping, dict) else None
    task = AUTO_CLASSES.get(str(adapter.get("task_type")))
    declared = [concrete(name) for name in getattr(config, "architectures", None) or []]
    return [c for c in [first, auto(task) if task else None, *declared, auto("AutoModel")] if c is not None]


def _why(error: BaseException) -> str:
    text = str(error).strip()
    if "trust_remote_code" in text or "custom code" in text:
        return "its architecture is code on the hub (`trust_remote_code`), which is never run"
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def phantom(model: nn.Module) -> nn.Module:
    """Give every meta parameter a CPU stand-in of its shape that occupies a single element; sharing is kept.

    PEFT places adapters on the device of the layer they adapt. On a meta base it would drop the adapter's values; on
    stand-ins it loads them as it does in earnest.
    """
    stand_ins: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type != "meta":
                continue
            if id(parameter) not in stand_ins:
                stand_ins[id(parameter)] = nn.Parameter(hollow(parameter.shape, parameter.dtype), requires_grad=False)
            module.register_parameter(name, stand_ins[id(parameter)])
    model.eval()
    return model


def hollow(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Zeros of ``shape`` that share one element of memory."""
    return torch.zeros((), dtype=dtype).expand(shape)


def is_hollow(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` is a stand-in rather than a weight."""
    return tensor.numel() > 1 and all(stride == 0 for stride in tensor.stride())


def parameter_names(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """Every name of every parameter, by identity."""
    names: dict[int, tuple[str, ...]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)] = (*names.get(id(parameter), ()), name)
    return names
