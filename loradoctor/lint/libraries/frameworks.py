"""accelerate, DeepSpeed, Unsloth: libraries that hand a model on, wrapped in their own way."""

from __future__ import annotations

from loradoctor.lint.flow.facts import Instance, Model
from loradoctor.lint.flow.values import Derived, Items, Unknown, Value
from loradoctor.lint.libraries.effects import Context, Spec
from loradoctor.lint.libraries.peft import wrap


def _prepared(context: Context) -> Value | None:
    values = context.binding.positional
    if context.binding.open or not values:
        return None
    return values[0] if len(values) == 1 else Items("tuple", values)


def _model(context: Context) -> Value | None:
    return context.arg("model")


def _engine(context: Context) -> Value | None:
    unseen = Unknown(f"deepspeed@{context.node.uid}")
    return Items("tuple", (context.arg("model") or unseen, context.arg("optimizer") or unseen, unseen, unseen))


def _state_dict(context: Context) -> Value | None:
    model = context.arg("model")
    return Derived("state_dict", model) if model is not None else None


def _fast_model(context: Context) -> Value:
    model = context.state.new(context.node.uid, Model(context.node, cls=context.name.rpartition(".")[0], prepared=context.node))
    tokenizer = context.state.new(context.node.uid, Instance(context.node, "transformers.AutoTokenizer"))
    return Items("tuple", (model, tokenizer))


def _fast_wrap(context: Context) -> Value:
    return wrap(context, context.arg("model"), None, "get_peft_model", trainable=True)


def _settings(context: Context) -> Value:
    return context.new(Instance(context.node, context.name))


_MODEL = Spec(("model",), _model, recorded=False)

FUNCTIONS = {
    "accelerate.Accelerator": Spec((), _settings),
    "accelerate.DeepSpeedPlugin": Spec(("hf_ds_config",), _settings),
    "accelerate.FullyShardedDataParallelPlugin": Spec((), _settings),
    "accelerate.Accelerator.prepare": Spec((), _prepared),
    "accelerate.Accelerator.prepare_model": _MODEL,
    "accelerate.Accelerator.unwrap_model": _MODEL,
    "accelerate.Accelerator.get_state_dict": Spec(("model",), _state_dict, recorded=False),
    "accelerate.dispatch_model": _MODEL,
    "accelerate.load_checkpoint_and_dispatch": _MODEL,
    "deepspeed.initialize": Spec(("args", "model", "optimizer", "model_parameters"), _engine),
}
PATTERNS = {
    r"unsloth\.Fast\w*Model\.from_pretrained": Spec(("model_name",), _fast_model),
    r"unsloth\.Fast\w*Model\.get_peft_model": Spec(("model", "r"), _fast_wrap),
    r"unsloth\.Fast\w*Model\.for_(inference|training)": _MODEL,
}
METHODS: dict[tuple[str, ...], dict[str, Spec]] = {}
