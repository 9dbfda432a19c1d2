"""PEFT: wrapping, loading, merging, configurations."""

from __future__ import annotations

from loradoctor.lint.flow.facts import Config, Model, Peft, Waiting
from loradoctor.lint.flow.values import Derived, Known, Unknown, Value
from loradoctor.lint.libraries.effects import MISSING, UNDECIDED, Context, Spec, as_model, of, saved
from loradoctor.lint.record import replace

PROMPT_CONFIGS = frozenset(
    f"peft.{name}Config" for name in ("PromptTuning", "PrefixTuning", "PromptEncoder", "MultitaskPromptTuning", "CPT", "Cartridge")
)
"""Methods that put nothing into the base model: it stays clean."""


def wrap(
    context: Context,
    model: Value | None,
    config: Value | None,
    how: str,
    *,
    trainable: bool | None,
    source: Value | None = None,
) -> Value:
    """Put an adapter into ``model`` in place and give its wrapper; ``source`` is where it is loaded from."""
    settings = context.get(config, Config)
    if settings is not None:
        prompt = settings.cls in PROMPT_CONFIGS
    else:  # a loaded adapter is taken to be of the kind this file makes
        made = context.machine.config_classes
        prompt = source is not None and bool(made) and made <= PROMPT_CONFIGS
    target = context.model(model) or context.state.new(context.node.uid, Model())
    oid = context.state.oid(target)
    facts = Peft(context.node, base=oid or "", how=how, config=config, source=source, trainable=trainable, prompt=prompt)
    wrapper = context.new(replace(facts, adapters=(context.arg("adapter_name") or Known("default"),)))
    base = context.base(target)
    if not prompt:
        context.change(base, injected=context.node, injected_by=how, merged=None, frozen=None, unfrozen=None)
    context.change(base, wrapper=context.state.oid(wrapper))
    saved(context, source, adapter=context.node)
    return wrapper


def _get_peft_model(context: Context) -> Value:
    config = context.arg("peft_config")
    settings = context.get(config, Config)
    trainable = settings is None or settings.loaded_from is None
    mixed = context.known("mixed")
    how = "mixed" if mixed not in (MISSING, UNDECIDED) and mixed else "get_peft_model"
    return wrap(context, context.arg("model"), config, how, trainable=trainable)


def _from_pretrained(context: Context) -> Value:
    flag = context.known("is_trainable")
    trainable = False if flag is MISSING else flag if isinstance(flag, bool) else None
    how = "mixed" if "Mixed" in context.name else "from_pretrained"
    return wrap(context, context.arg("model"), context.arg("config"), how, trainable=trainable, source=context.arg("model_id"))


def _auto(context: Context) -> Value:
    flag = context.known("is_trainable")
    trainable = False if flag is MISSING else flag if isinstance(flag, bool) else None
    quantized = quantization(context)
    base = context.state.new(context.node.uid, Model(context.node, cls=context.name, quantized=quantized))
    return wrap(context, base, None, "auto", trainable=trainable, source=context.arg("model_id"))


def quantization(context: Context) -> str | None:
    """How `from_pretrained` is told to quantize, if that is certain."""
    from loradoctor.lint.flow.facts import Quantization

    for name, bits in (("load_in_4bit", "4-bit"), ("load_in_8bit", "8-bit")):
        if context.known(name) is True:
            return bits
    settings = context.get(context.arg("quantization_config"), Quantization)
    return settings.bits if settings else None


def _config(context: Context) -> Value:
    fields = tuple(context.binding.values.items())
    context.machine.config_classes.add(context.name)
    return context.new(Config(context.node, cls=context.name, fields=fields, complete=not context.binding.open))


def _config_from_file(context: Context) -> Value:
    path = context.arg("pretrained_model_name_or_path") or Unknown("path")
    cls = context.name.removesuffix(".from_pretrained")
    return context.new(Config(context.node, cls=cls, complete=False, loaded_from=path))


def _prepare(context: Context) -> Value | None:
    model = context.model(context.arg("model"))
    facts = context.state.facts(model)
    context.change(model, prepared=context.node)
    context.event("prepared", context.base(model))
    if isinstance(facts, Peft) or (isinstance(facts, Model) and facts.carries_adapter):
        context.change(model, frozen=context.node, unfrozen=None)
    return model


def _fill(context: Context) -> Value | None:
    context.change(context.arg("model"), filled=context.node)
    context.event("filled", context.arg("model"))
    return None


def _adapter_state_dict(context: Context) -> Value | None:
    model = context.arg("model")
    return Derived("adapter_state_dict", model) if model is not None else None


def _adapter_items(context: Context) -> Value | None:
    return Derived("adapter_items", context.receiver) if context.receiver is not None else None


def _merge(context: Context) -> Value | None:
    return _take_out(context, merged=True)


def _unload(context: Context) -> Value | None:
    return _take_out(context, merged=False)


def _take_out(context: Context, *, merged: bool) -> Value | None:
    wrapper = receiver_wrapper(context)
    peft = context.get(wrapper, Peft)
    if peft is None:
        return None
    base = context.base(wrapper)
    taken = peft.trained if merged else None
    context.change(wrapper, gutted=context.node, unloaded=not merged)
    context.change(base, injected=None, merged=context.node if merged else None, frozen=None, unfrozen=taken)
    context.change(base, merged_source=peft.source if merged else None)
    context.event("merged" if merged else "unloaded", base)
    return base


def receiver_wrapper(context: Context) -> Value | None:
    """The PEFT wrapper a method is called on; an unknown receiver of a PEFT-only method becomes one where peft is imported."""
    receiver = context.receiver
    if isinstance(receiver, Derived) and receiver.kind == "tuner":
        return receiver.source
    unseen = isinstance(receiver, Unknown) and context.state.facts(receiver) is None and not receiver.key.startswith("object@")
    if isinstance(receiver, Unknown) and unseen and "peft" in context.machine.imports:
        base = context.state.new(context.node.uid, Model())
        context.state.heap[receiver.key] = Peft(base=base.oid, how="unseen")
        context.state.run.models.add(receiver.key)
        context.change(base, injected=context.node, injected_by="unseen", wrapper=receiver.key)
    return receiver


def _save(context: Context) -> Value | None:
    receiver = context.receiver
    wrapper = receiver.source if isinstance(receiver, Derived) else receiver
    facts = context.get(wrapper, Peft)
    if facts is not None and not facts.gutted:
        saved(context, context.arg("save_directory"), adapter=context.node)
    return None


def _base_model(context: Context) -> Value | None:
    peft = context.get(context.receiver, Peft)
    return of(peft.base) if peft else None


def _activate(context: Context) -> Value | None:
    wrapper = receiver_wrapper(context)
    context.change(wrapper, unfrozen=context.node, frozen=None, waiting=())
    context.event("activated", wrapper)
    return Known(None)


def _load_adapter(context: Context) -> Value | None:
    context.change(context.receiver, filled=context.node)
    context.event("filled", context.receiver)
    _refill(context)
    _wait(context, "load")
    return None


def _add_adapter(context: Context) -> Value | None:
    _refill(context)
    _wait(context, "add")
    return None


def _refill(context: Context) -> None:
    """A wrapper that was emptied takes a new adapter: PEFT injects it, unless the name is one that it still lists."""
    wrapper = receiver_wrapper(context)
    facts = context.get(wrapper, Peft)
    if facts is not None and facts.gutted is not None and context.arg("adapter_name") not in facts.adapters:
        context.change(wrapper, gutted=None, unloaded=False, touched=context.node)
        context.change(context.base(wrapper), injected=context.node, injected_by=context.name, merged=None)


def _wait(context: Context, how: str) -> None:
    """Remember an adapter that is in the model and not active; combining others uses those."""
    wrapper = receiver_wrapper(context)
    facts = context.get(wrapper, Peft)
    name = context.arg("adapter_name")
    if facts is None or name is None or name in facts.adapters[:1]:
        return
    kept = () if how == "combine" else facts.waiting
    waiting = (*kept, Waiting(how, name, context.node))
    adapters = facts.adapters if name in facts.adapters else (*facts.adapters, name)
    context.change(wrapper, adapters=adapters, waiting=waiting[-8:])


def _delete_adapter(context: Context) -> Value | None:
    """Another adapter becomes active."""
    wrapper = receiver_wrapper(context)
    context.change(wrapper, waiting=())
    context.event("activated", wrapper)
    return None


def _unmerge(context: Context) -> Value | None:
    context.change(receiver_wrapper(context), unmerged=context.node)
    return None


def _surgery(context: Context) -> Value | None:
    """Layers are put in and taken out one by one: what is left in the model is out of sight."""
    wrapper = receiver_wrapper(context)
    for part in (wrapper, context.base(wrapper)):
        context.change(part, touched=context.node)
        context.event("rebuilt", part)
    return None


def _inject(context: Context) -> Value | None:
    model = as_model(context.arg("model"), context.state)
    context.change(model, native=context.node)
    return model


def _unplug(context: Context) -> Value | None:
    context.change(context.receiver, injected=None, native=None)
    return None


def _lora_layer_touch(context: Context) -> Value | None:
    facts = context.get(context.receiver, Peft)
    if facts is not None:
        context.state.heap[context.state.oid(context.receiver)] = replace(facts, filled=context.node)  # type: ignore[index]
    _wait(context, "combine")
    return None


_TUNER = Spec(("model", "peft_config", "adapter_name"))
_LOAD = ("model", "model_id", "adapter_name", "is_trainable", "config", "autocast_adapter_dtype")

FUNCTIONS = {
    "peft.get_peft_model": Spec(("model", "peft_config", "adapter_name", "mixed", "autocast_adapter_dtype"), _get_peft_model),
    "peft.prepare_model_for_kbit_training": Spec(("model", "use_gradient_checkpointing"), _prepare),
    "peft.prepare_model_for_int8_training": Spec(("model", "use_gradient_checkpointing"), _prepare),
    "peft.prepare_model_for_training": Spec(("model",), _prepare),
    "peft.set_peft_model_state_dict": Spec(("model", "peft_model_state_dict", "adapter_name"), _fill),
    "peft.get_peft_model_state_dict": Spec(("model", "state_dict", "adapter_name"), _adapter_state_dict),
    "peft.inject_adapter_in_model": Spec(("peft_config", "model", "adapter_name"), _inject),
    "peft.PeftModel": Spec(("model", "peft_config", "adapter_name"), _get_peft_model),
}
PATTERNS = {
    r"peft\.(PeftModel|PeftMixedModel)\w*\.from_pretrained": Spec(_LOAD, _from_pretrained),
    r"peft\.AutoPeftModel\w*\.from_pretrained": Spec(("model_id", "adapter_name", "is_trainable", "config"), _auto),
    r"peft\.(PeftModelFor\w+|PeftMixedModel)": Spec(("model", "peft_config", "adapter_name"), _get_peft_model),
    r"peft\.(AdaLora|BOFT|Bone|FourierFT|HRA|IA3|LNTuning|LoHa|LoKr|Lora|Miss|OFT|Poly|RandLora|Shira|Vblora|Vera)Model": _TUNER,
    r"peft\.\w+Config\.from_pretrained": Spec(("pretrained_model_name_or_path",), _config_from_file),
    r"peft\.\w+Config": Spec(("task_type",), _config),
}
METHODS: dict[tuple[str, ...], dict[str, Spec]] = {
    ("Derived:adapter_state_dict",): {"items": Spec((), _adapter_items, recorded=False)},
    ("Peft", "Derived:tuner", "Unknown"): {"merge_and_unload": Spec(("progressbar", "safe_merge", "adapter_names"), _merge)},
    ("Peft", "Derived:tuner"): {
        "unload": Spec((), _unload),
        "merge_adapter": Spec(("adapter_names", "safe_merge")),
        "unmerge_adapter": Spec((), _unmerge),
        "add_weighted_adapter": Spec(("adapters", "weights", "adapter_name", "combination_type"), _lora_layer_touch),
        "delete_adapter": Spec(("adapter_name",), _delete_adapter),
        "save_pretrained": Spec(("save_directory", "safe_serialization"), _save),
        "push_to_hub": Spec(("repo_id",)),
        "set_adapter": Spec(("adapter_name", "inference_mode"), _activate),
        "_replace_module": Spec((), _surgery, recorded=False),
    },
    ("Peft",): {
        "get_base_model": Spec((), _base_model),
        "load_adapter": Spec(("model_id", "adapter_name", "is_trainable"), _load_adapter),
        "add_adapter": Spec(("adapter_name", "peft_config"), _add_adapter),
        "disable_adapters enable_adapters print_trainable_parameters": Spec(),
    },
    ("Peft", "Unknown"): {"disable_adapter": Spec()},
    ("Model",): {
        "delete_adapters delete_adapter unload": Spec((), _unplug),
        "merge_adapter unmerge_adapter add_weighted_adapter print_trainable_parameters get_nb_trainable_parameters": Spec(),
    },
}
