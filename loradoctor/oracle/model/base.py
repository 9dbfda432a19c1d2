"""The base model as a phantom: every module and shape of it, and no memory for its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from ..files.weights import renamer
from . import pipeline as pipelines

# peft.utils.peft_types.TaskType → the class of transformers that a user of that task loads the base with
AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


BUILD_ERRORS = (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError, NotImplementedError)
"""what reading a config or making a model of it may raise"""


class Unbuildable(Exception):
    """The base model cannot be built from its config here; the message says why."""


@dataclass(frozen=True)
class Base:
    """A model without weights, its class, and the name each of its parameters has in the model."""

    model: nn.Module
    class_name: str
    names: dict[int, tuple[str, ...]]
    """``id(parameter)`` → every name it has in the base model; more than one when weights are tied"""
    make: Callable[[], nn.Module]
    """makes the model anew, on the meta device"""
    pipeline: pipelines.Pipeline | None = None
    """the diffusion pipeline that the model is a part of"""
    part: str = ""
    """the directory of that part within the pipeline's"""

    def again(self) -> Base:
        """The same base, which no adapter has touched. Raises what building it raises."""
        return _stand_in(self.make, self.pipeline, self.part)


def _stand_in(make: Callable[[], nn.Module], pipeline: pipelines.Pipeline | None = None, part: str = "") -> Base:
    model = make()
    return Base(phantom(model), type(model).__name__, parameter_names(model), make, pipeline, part)


def build(
    reference: str, adapter: dict[str, Any], *, online: bool, num_labels: int | None, modules: Sequence[str] = ()
) -> Base:
    """Build the base model on the meta device with the class that the adapter's task calls for.

    ``reference`` is a directory or a hub id, ``adapter`` the adapter's config, ``modules`` the paths that it adapts: a
    text-and-image model is often trained with the task of a language model. Raises :class:`Unbuildable`.
    """
    try:
        pipeline = pipelines.at(reference)
        config = None if pipeline else _config(reference, adapter, online=online, num_labels=num_labels)
    except BUILD_ERRORS as error:
        raise Unbuildable(_why(error)) from error
    problems: list[str] = []
    built: list[tuple[float, Base]] = []
    for part, make in pipeline.parts.items() if pipeline else [("", make) for make in _candidates(config, adapter)]:
        try:
            base = _stand_in(make, pipeline, part)
        except BUILD_ERRORS as error:
            problems.append(_why(error))
            continue
        built.append((_share(base.model, modules), base))
        if built[-1][0] == 1:
            break
    share, best = max(built, key=lambda entry: entry[0], default=(0, None))
    if pipeline and (best is None or (share < 1 and problems)):
        # The part that could not be made may be the one that the adapter is for.
        raise Unbuildable(problems[0] if problems else "it is a diffusion pipeline without a part that LoRAs are trained for")
    if best is not None:
        return best
    backbone = _maker("AutoModel", config)
    try:
        return _stand_in(backbone)
    except BUILD_ERRORS as error:
        problems.append(_why(error))
    raise Unbuildable(problems[0])


def _config(reference: str, adapter: dict[str, Any], *, online: bool, num_labels: int | None) -> Any:
    from transformers import AutoConfig

    extra = {"num_labels": num_labels} if num_labels else {}
    return AutoConfig.from_pretrained(
        reference, revision=revision(reference, adapter), local_files_only=not online, trust_remote_code=False, **extra
    )


def _share(model: nn.Module, modules: Sequence[str]) -> float:
    """How many of ``modules`` the model has, as a share, under their own or the name that transformers gives them now."""
    if not modules:
        return 1
    known = {name for name, _ in model.named_modules()}
    rename = renamer(model)
    return sum(m in known or rename(f"{m}.weight").removesuffix(".weight") in known for m in modules) / len(modules)


def revision(reference: str, adapter: dict[str, Any]) -> str:
    """The revision of the base that the adapter was trained on, when ``reference`` is the base it names; else ``main``."""
    named = adapter.get("revision") if reference == adapter.get("base_model_name_or_path") else None
    return named if isinstance(named, str) and named else "main"


def _candidates(config: Any, adapter: dict[str, Any]) -> list[Callable[[], nn.Module]]:
    mapping = adapter.get("auto_mapping")
    named = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    task = AUTO_CLASSES.get(str(adapter.get("task_type")))
    declared = getattr(config, "architectures", None) or []
    wanted = [named if _is_model_class(named) else None, task, *(name for name in declared if _is_model_class(name))]
    return [_maker(name, config) for name in dict.fromkeys(wanted) if name is not None]


def _is_model_class(name: Any) -> bool:
    import transformers

    found = getattr(transformers, name, None) if isinstance(name, str) else None
    return isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)


def _maker(name: str, config: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        cls: Any = getattr(transformers, name)
        own = copy.deepcopy(config)  # PEFT writes into the config of a model whose embeddings it unties
        with torch.device("meta"):
            # What AutoModel.from_config calls in the end.
            model = cls.from_config(own, trust_remote_code=False) if name.startswith("AutoModel") else cls._from_config(own)
        return cast("nn.Module", model)

    return make


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
    # PEFT replaces some parameters for good; kept alive, their identity is nobody else's.
    model.__dict__["_loradoctor_stand_ins"] = tuple(stand_ins.values())
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
