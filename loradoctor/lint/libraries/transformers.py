"""transformers: models, quantization, the Trainer, and its own adapter methods."""

from __future__ import annotations

from loradoctor.lint.flow.facts import Instance, Model, Peft, Quantization, Tokenizer, Trainer
from loradoctor.lint.flow.values import Derived, Known, Value
from loradoctor.lint.libraries.effects import UNDECIDED, Context, Spec, saved
from loradoctor.lint.libraries.peft import quantization

_MODEL_CLASS = r"(?:Auto|TF|Flax)?\w*(?:Model|For[A-Z]\w+|LMHeadModel|DoubleHeadsModel|ModelWithLMHead|ModelWithHeads)"


def _load(context: Context) -> Value:
    cls = context.name.rpartition(".")[0] if context.name.endswith(("from_pretrained", "from_config")) else context.name
    source = context.arg("pretrained_model_name_or_path")
    return context.new(Model(context.node, cls=cls, source=source, quantized=quantization(context)))


def _instance(context: Context) -> Value:
    return context.new(Instance(context.node, context.name.removesuffix(".from_pretrained")))


def _tokenizer(context: Context) -> Value:
    source = context.arg("pretrained_model_name_or_path")
    return context.new(Tokenizer(context.node, context.name.removesuffix(".from_pretrained"), source))


def _chat_template(context: Context) -> Value | None:
    """With `tokenize=False` a text that holds its special tokens, else ids or, since transformers 5, an encoding of them."""
    if context.receiver is None:
        return None
    if context.known("tokenize") is False:
        return Derived("chat_text", context.receiver)
    plain = context.arg("return_dict") is None and context.arg("tokenize") in (None, Known(True))  # noqa: FBT003
    return Derived("chat_encoding", context.receiver, str(context.node.uid)) if plain else None


def _itself(context: Context) -> Value | None:
    return context.receiver


def _bits(context: Context) -> Value:
    bits: str | None = None
    for name, found in (("load_in_4bit", "4-bit"), ("load_in_8bit", "8-bit")):
        if context.known(name) is True:
            bits = found
    if any(context.known(n) is UNDECIDED for n in ("load_in_4bit", "load_in_8bit")):
        bits = None
    return context.new(Quantization(context.node, bits))


def _other_quantization(context: Context) -> Value:
    return context.new(Quantization(context.node, context.name.rpartition(".")[2].removesuffix("Config")))


def trainer(context: Context) -> Value:
    """A trainer around the model it is given."""
    model = context.arg("model")
    if model is not None:
        context.model(model)
    config = context.arg("peft_config")
    arguments = context.state.oid(context.arg("args"))
    output = context.state.attrs.get((arguments, "output_dir")) if arguments is not None else None
    return context.new(Trainer(context.node, cls=context.name, model=model, peft_config=config, output=output))


def _train(context: Context) -> Value | None:
    facts = context.get(context.receiver, Trainer)
    if facts is not None:
        context.change(context.receiver, trained=context.node)
        context.change(facts.model, trained=context.node)
        context.event("trained", facts.model)
    return None


def _save(context: Context) -> Value | None:
    facts = context.get(context.receiver, Model)
    if facts is not None and facts.merged is not None:
        saved(context, context.arg("save_directory"), merged=facts.merged)
    return None


def _save_model(context: Context) -> Value | None:
    facts = context.get(context.receiver, Trainer)
    wrapper = context.get(facts.model, Peft) if facts else None
    if facts is not None and wrapper is not None and not wrapper.gutted:
        saved(context, context.arg("output_dir") or facts.output, adapter=context.node)
    return None


def _submodule(context: Context) -> Value | None:
    return Derived("submodule", context.receiver) if context.receiver is not None else None


def _native(context: Context) -> Value | None:
    context.change(context.receiver, native=context.node)
    return None


def _trainer_arguments(context: Context) -> Value | None:
    made = context.new(Instance(context.node, context.name))
    oid = context.state.oid(made)
    if oid is not None:
        context.state.attrs.update({(oid, name): value for name, value in context.binding.values.items()})
    return made


_TRAINER = (
    "model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class", "model_init",
    "compute_loss_func", "compute_metrics", "callbacks", "optimizers",
)  # fmt: skip
_SOURCE = ("pretrained_model_name_or_path", "config")

FUNCTIONS = {
    "transformers.BitsAndBytesConfig": Spec(("load_in_8bit", "load_in_4bit"), _bits),
    "transformers.Trainer": Spec(_TRAINER, trainer),
    "transformers.Seq2SeqTrainer": Spec(_TRAINER, trainer),
}
PATTERNS = {
    r"transformers\.DataCollator\w+": Spec(("tokenizer", "mlm"), _instance),
    rf"(transformers|diffusers)\.{_MODEL_CLASS}\.(from_pretrained|from_config|_from_config)": Spec(_SOURCE, _load),
    rf"transformers\.(?!.*Trainer){_MODEL_CLASS}": Spec(("config",), _load),
    r"transformers\.(GPTQ|Awq|Hqq|Eetq|Aqlm|Quanto|TorchAo|FbgemmFp8|Vptq|CompressedTensors)Config": Spec((), _other_quantization),
    r"transformers\.\w*TrainingArguments": Spec(("output_dir",), _trainer_arguments),
    r"trl\.(SFT|DPO|GRPO|KTO|ORPO|CPO|Reward|PPO|RLOO|GKD|BCO|OnlineDPO)Config": Spec(("output_dir",), _trainer_arguments),
    r"transformers\.\w*Tokenizer\w*\.from_pretrained": Spec(("pretrained_model_name_or_path",), _tokenizer),
    r"(transformers|diffusers)\.\w+\.from_pretrained": Spec(("pretrained_model_name_or_path",), _instance, recorded=False),
    r"transformers\.\w*Tokenizer\w*\.(encode_plus|batch_encode_plus|prepare_seq2seq_batch|as_target_tokenizer|build_inputs_\w+)": Spec(),
    r"(transformers|sentence_transformers|setfit)\.\w*Trainer": Spec(_TRAINER, trainer),
}
METHODS: dict[tuple[str, ...], dict[str, Spec]] = {
    ("Model",): {
        "add_adapter load_adapter": Spec(("adapter",), _native),
        "save_pretrained": Spec(("save_directory",), _save),
        "push_to_hub": Spec(("repo_id",)),
        "get_submodule": Spec((), _submodule, recorded=False),
        "merge_and_unload disable_adapter": Spec(),
        "to_bettertransformer reverse_bettertransformer prune_heads": Spec(),
        "gradient_checkpointing_enable": Spec(("gradient_checkpointing_kwargs",)),
        "resize_token_embeddings": Spec(("new_num_tokens", "pad_to_multiple_of")),
        "enable_input_require_grads": Spec(),
    },
    ("Peft",): {
        "gradient_checkpointing_enable": Spec(("gradient_checkpointing_kwargs",)),
        "resize_token_embeddings": Spec(("new_num_tokens", "pad_to_multiple_of")),
        "enable_input_require_grads": Spec(),
    },
    ("Tokenizer",): {
        "__call__": Spec(("text", "text_pair")),
        "apply_chat_template": Spec(("conversation",), _chat_template),
        "add_tokens": Spec(("new_tokens", "special_tokens")),
        "add_special_tokens": Spec(("special_tokens_dict",)),
    },
    ("Derived:chat_encoding",): {"to cuda": Spec((), _itself, recorded=False)},
    ("Trainer",): {
        "train": Spec(("resume_from_checkpoint",), _train),
        "save_model": Spec(("output_dir",), _save_model),
        "evaluate predict push_to_hub save_state": Spec(),
    },
    ("Unknown", "Instance", "Tokenizer"): {"save_pretrained push_to_hub": Spec(("save_directory",))},
}
