"""TRL: trainers that wrap the model themselves when they are given a `peft_config`."""

from __future__ import annotations

from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.flow.values import NONE, Items, Known, Unknown, Value
from loradoctor.lint.libraries.effects import Context, Spec
from loradoctor.lint.libraries.peft import wrap
from loradoctor.lint.libraries.transformers import trainer
from loradoctor.lint.record import replace

_PARAMS = {
    "DPO": ("model", "ref_model", "args"),
    "KTO": ("model", "ref_model", "args"),
    "BCO": ("model", "ref_model", "args"),
    "SFT": ("model", "args", "data_collator", "train_dataset", "eval_dataset"),
    "GRPO": ("model", "reward_funcs", "args", "train_dataset", "eval_dataset"),
}


def _trainer(context: Context) -> Value:
    """`SFTTrainer(model, peft_config=c)` puts the adapter in and trains the wrapper (trl `get_peft_model` in `__init__`)."""
    made = trainer(context)
    model, config = context.arg("model"), context.arg("peft_config")
    if config is None or config == NONE or isinstance(context.state.facts(model), Peft):
        return made
    given = context.model(model) if not isinstance(model, Known) else None
    given = given or context.state.new(context.node.uid, Model(context.node))
    inner = replace_into(context)
    wrapper = wrap(inner, given, config, context.name.rpartition(".")[2], trainable=True)
    context.change(made, model=wrapper)
    return made


def replace_into(context: Context) -> Context:
    """The same call, making a second object."""
    return replace(context, into=None)


def _chat_format(context: Context) -> Value | None:
    """Adds the tokens of a chat format, resizes the embeddings and gives both back."""
    model, tokenizer = context.model(context.arg("model")), context.arg("tokenizer")
    if model is None or tokenizer is None:
        return None
    given = (model, tokenizer)
    more = (Unknown(f"added@{context.node.uid}"),) if context.name.endswith("clone_chat_template") else ()
    return Items("tuple", (*given, *more))


FUNCTIONS = {f"trl.{name}Trainer": Spec(params, _trainer) for name, params in _PARAMS.items()} | {
    "trl.setup_chat_format": Spec(("model", "tokenizer", "format", "resize_to_multiple_of"), _chat_format),
    "trl.clone_chat_template": Spec(("model", "tokenizer", "source_tokenizer_path"), _chat_format),
}
PATTERNS = {r"trl\.\w+Trainer": Spec(("model", "args"), _trainer)}
METHODS: dict[tuple[str, ...], dict[str, Spec]] = {}
