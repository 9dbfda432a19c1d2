"""diffusers: pipelines, and the LoRA files they read and write."""

from __future__ import annotations

from loradoctor.lint.flow.facts import Pipeline
from loradoctor.lint.flow.values import Derived, Unknown, Value
from loradoctor.lint.libraries.effects import Context, Spec


def _pipeline(context: Context) -> Value:
    return context.new(Pipeline(context.node, context.name.rpartition(".")[0]))


def _itself(context: Context) -> Value | None:
    return context.receiver


def _load(context: Context) -> Value | None:
    context.change(context.receiver, injected=context.node, waiting=context.node)
    return None


def _plug(context: Context) -> Value | None:
    """Layers go into a part of a pipeline, ``pipe.unet``."""
    part = context.receiver
    if isinstance(part, Unknown):
        owner = next((o for o, f in context.state.heap.items() if isinstance(f, Pipeline) and part.key.startswith(f"{o}.")), None)
        if owner is not None:
            context.state.change(owner, injected=context.node, waiting=None)
    return None


def _fuse(context: Context) -> Value | None:
    context.change(context.receiver, waiting=None)
    return None


def _unload(context: Context) -> Value | None:
    context.change(context.receiver, injected=None, waiting=None)
    return None


def _activate(context: Context) -> Value | None:
    context.change(context.receiver, waiting=None)
    context.event("activated", context.receiver)
    return None


def _use(context: Context) -> Value | None:
    context.change(context.receiver, waiting=None)
    return None


def _unplug(context: Context) -> Value | None:
    context.change(context.receiver, native=None)
    return None


def _layers(context: Context) -> Value | None:
    """The same tensors under other names."""
    state_dict = context.arg("state_dict")
    return state_dict if isinstance(state_dict, Derived) else None


_PATH = ("pretrained_model_name_or_path_or_dict", "adapter_name")
_ATTENTION = Spec(("pretrained_model_name_or_path_or_dict",))

FUNCTIONS = {"diffusers.convert_state_dict_to_diffusers": Spec(("state_dict",), _layers, recorded=False)}
PATTERNS = {
    r"diffusers\.(\w+Pipeline|AutoPipelineFor\w+)\.from_(pretrained|pipe|single_file)": Spec(
        ("pretrained_model_name_or_path",), _pipeline, recorded=False
    ),
    r"diffusers\.\w+Pipeline\.save_lora_weights": Spec(("save_directory",)),
}
METHODS: dict[tuple[str, ...], dict[str, Spec]] = {
    ("Pipeline",): {
        "to": Spec((), _itself, recorded=False),
        "load_lora_weights": Spec(_PATH, _load),
        "fuse_lora": Spec((), _fuse),
        "unload_lora_weights": Spec((), _unload),
        "set_adapters delete_adapters enable_lora disable_lora": Spec((), _activate),
        "__call__": Spec((), _use, recorded=False),
        "save_pretrained": Spec(("save_directory",)),
        "push_to_hub": Spec(("repo_id",)),
        "save_lora_weights": Spec(("save_directory",)),
    },
    ("Unknown",): {"load_lora_weights": Spec(_PATH), "load_attn_procs": Spec(_ATTENTION.params, _plug)},
    ("Model",): {"load_attn_procs": _ATTENTION, "unload_lora": Spec((), _unplug)},
}
