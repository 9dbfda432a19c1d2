"""What stands in the place of names that libraries have removed or deprecated, as data. One entry is one line; rules hold no names.

When a parameter or a public name came and went is read out of released wheels (:mod:`loradoctor.lint.libraries.signatures`). A version
is written here only for what no signature shows: what is taken out of ``**kwargs``, methods, and modules.
"""

from __future__ import annotations

from functools import cache

from loradoctor.lint.libraries.signatures import Life, public_name, public_names, signature
from loradoctor.lint.record import record, replace


@record
class Change:
    """What happened to a name of ``library``: ``since``, ``deprecated`` and ``removed`` are the first versions that have it, warn, lack it.

    ``new`` is the name that takes its place unchanged; where a rename is not enough ``instead`` says in words what to do.
    ``value`` is the new argument written out for an argument that is literally ``True``; ``drop`` when the argument may
    simply go. ``recent`` names have no successor in earlier releases: only who names the version is told of those. ``ignored``
    when a call that lacks the name still takes it, and does nothing with it; ``end`` says what becomes of a deprecated name.
    """

    library: str
    removed: str | None = None
    deprecated: str | None = None
    new: str = ""
    instead: str = ""
    value: str = ""
    drop: bool = False
    recent: bool = False
    since: str | None = None
    ignored: bool = False
    end: str = ""

    @property
    def advice(self) -> str:
        """What to do, as a clause; empty where there is nothing to say."""
        if self.instead:
            return self.instead
        if self.new or self.value:
            return f"write `{self.value or self.new}`"
        return "leave it out" if self.drop else ""

    def lived(self, life: Life) -> Change:
        """The same advice for a name of this life."""
        return replace(self, since=life.since, deprecated=life.deprecated, removed=life.until)


Names = dict[str, Change]


def _of(library: str, removed: str | None, names: str, **details: object) -> Names:
    """Entries of one fate: ``names`` holds words ``old`` or ``old=new``."""
    pairs = (word.partition("=") for word in names.split())
    return {old: Change(library, removed, new=new, **details) for old, _, new in pairs}  # type: ignore[arg-type]


_T = "transformers"
_TRAINING_ARGUMENTS: Names = {
    **_of(_T, None, "evaluation_strategy=eval_strategy no_cuda=use_cpu push_to_hub_token=hub_token push_to_hub_model_id=hub_model_id"),
    **_of(_T, None, "per_gpu_train_batch_size=per_device_train_batch_size per_gpu_eval_batch_size=per_device_eval_batch_size"),
    **_of(_T, None, "dispatch_batches split_batches", instead="put it into `accelerator_config`"),
    **_of(_T, None, "push_to_hub_organization", instead="name it in `hub_model_id`"),
    **_of(_T, None, "fp16_backend half_precision_backend fp16_opt_level", instead="`fp16=True` or `bf16=True` is enough"),
    **_of(_T, None, "fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap", instead="put it into `fsdp_config`"),
    **_of(_T, None, "adafactor", value='optim="adafactor"'),
    **_of(_T, None, "include_inputs_for_metrics", value='include_for_metrics=["inputs"]'),
    **_of(_T, None, "include_tokens_per_second", instead="see `include_num_input_tokens_seen`"),
    **_of(_T, None, "torchdynamo", instead="use `torch_compile_backend`"),
    **_of(_T, None, "save_safetensors", drop=True, instead="leave it out: files are always safetensors"),
    **_of(_T, None, "overwrite_output_dir use_mps_device use_legacy_prediction_loop", drop=True),
    **_of(_T, None, "group_by_length", value='train_sampling_strategy="group_by_length"'),
    **_of(_T, None, "warmup_ratio", instead="`warmup_steps` takes a fraction below 1"),
    **_of(_T, None, "logging_dir", instead="set the environment variable `TENSORBOARD_LOGGING_DIR`"),
    **_of(_T, None, "sharded_ddp", instead="use `fsdp`"),
    **_of(_T, None, "xpu_backend=ddp_backend"),
    **_of(_T, None, "gradient_checkpointing=activation_checkpointing", recent=True),
    **_of(_T, None, "gradient_checkpointing_kwargs=activation_checkpointing_kwargs", recent=True),
}
_CONFIG = {name: {"instead": f"give it to `{name}Config`"} for name in ("SFT", "DPO")}
_PROCESSING = _of("trl", None, "tokenizer=processing_class")
_PAD_TOKEN = _of("trl", None, "pad_token", instead="set `tokenizer.pad_token` and pass the tokenizer as `processing_class`")
_PROMPT = _of("trl", None, "max_prompt_length", instead="`max_length` bounds prompt and answer together")
_LIGER = _of("trl", None, "use_liger_loss=use_liger_kernel")
_BY_CALL: dict[str, Names] = {
    "transformers.TrainingArguments": _TRAINING_ARGUMENTS,
    "transformers.Seq2SeqTrainingArguments": _TRAINING_ARGUMENTS,
    "transformers.Trainer": _of(_T, None, "tokenizer=processing_class"),
    "trl.SFTTrainer": {
        **_of("trl", None, "dataset_text_field packing dataset_num_proc neftune_noise_alpha", **_CONFIG["SFT"]),
        **_of("trl", None, "model_init_kwargs eval_packing dataset_kwargs", **_CONFIG["SFT"]),
        **_of("trl", None, "max_seq_length", instead="give it to `SFTConfig`, which calls it `max_length` since trl 0.16"),
        **_of("trl", None, "compute_loss_func", instead="override `compute_loss` in a subclass"),
    },
    "trl.DPOTrainer": {
        **_of("trl", None, "beta loss_type label_smoothing max_length truncation_mode disable_dropout", **_CONFIG["DPO"]),
        **_of("trl", None, "model_init_kwargs dataset_num_proc precompute_ref_log_probs", **_CONFIG["DPO"]),
    },
    "trl.SFTConfig": _PAD_TOKEN | _of("trl", None, "max_seq_length=max_length use_liger=use_liger_kernel"),
    "trl.DPOConfig": _PAD_TOKEN | _PROMPT | _LIGER,
    "trl.KTOConfig": _PROMPT | _LIGER,
    "trl.GRPOConfig": _LIGER
    | _of("trl", None, "use_transformers_paged=use_transformers_continuous_batching")
    | _of("trl", None, "vllm_device vllm_dtype vllm_enable_prefix_caching", instead="set it where the vLLM server is started"),
    "trl.RewardConfig": _PAD_TOKEN,
    "peft.PeftModel.save_pretrained": _of(
        "peft", None, "convert_pissa_to_lora", instead="pass the untouched adapter's `path_initial_model_for_weight_conversion`", ignored=True
    ),
}
"""Advice for the parameters of calls whose signatures are known."""

_LOADING: Names = {
    **_of(_T, "5.0", "use_auth_token=token", deprecated="4.31"),
    **_of(_T, "4.53", "use_flash_attention_2", deprecated="4.36", value='attn_implementation="flash_attention_2"'),
    **_of(_T, "5.0", "torchscript"),
    **_of(_T, "5.0", "resume_download", drop=True),
    **_of(_T, None, "torch_dtype=dtype", deprecated="4.56", recent=True),
    **_of(_T, None, "dtype", since="4.56"),
    **_of(_T, None, "token", since="4.31"),
    **_of(_T, None, "attn_implementation", since="4.36"),
}
"""Of a model's `from_pretrained`: what it does not take out of its keywords goes to the model's constructor, which knows none."""
READING = "transformers.*.from_pretrained"
"""The call of every other loader: what it does not know it keeps, or drops."""
_READING = _of(_T, None, "use_auth_token=token", deprecated="4.32", end="transformers 5.0 takes it and sends no token")
_PUSHING = _of(_T, "5.0", "use_auth_token=token", deprecated="4.32")

OPTIMIZERS = {"adamw_hf": Change(_T, "4.50", new="adamw_torch")}
"""Values of ``optim=`` that are gone."""

_EXPERIMENTAL = {
    "orpo": "ORPOConfig ORPOTrainer",
    "cpo": "CPOConfig CPOTrainer",
    "gkd": "GKDConfig GKDTrainer",
    "online_dpo": "OnlineDPOConfig OnlineDPOTrainer",
}
"""Trainers of TRL that moved, by the module they moved to."""
_GONE_SINCE = {
    "PPOConfig PPOTrainer AutoModelForCausalLMWithValueHead AutoModelForSeq2SeqLMWithValueHead PreTrainedModelWrapper": ("1.12", "ppo"),
    "BCOConfig BCOTrainer": ("1.13", "bco"),
    "NashMDConfig NashMDTrainer": ("1.13", "nash_md"),
    "XPOConfig XPOTrainer": ("1.13", "xpo"),
    "PRMConfig PRMTrainer": ("1.13", "prm"),
}
"""Trainers that moved and went: the last release of TRL that has them, and where."""

FUNCTIONS: Names = {
    **_of("peft", "0.10", "peft.prepare_model_for_int8_training=peft.prepare_model_for_kbit_training", deprecated="0.4"),
    **_of("peft", "0.19", "peft.BoneConfig=peft.MissConfig", instead="`MissConfig` is its successor"),
    **_of("peft", "0.19", "peft.BoneModel", instead="`MissModel` is its successor"),
    **_of("peft", "0.15", "peft.mapping.get_peft_model=peft.get_peft_model"),
    **_of("peft", "0.15", "peft.mapping.MODEL_TYPE_TO_PEFT_MODEL_MAPPING", instead="import it from `peft`"),
    **_of("peft", "0.0.1", "peft.tuner.lora=peft.tuners.lora"),
    **_of(_T, "4.50", "transformers.AdamW=torch.optim.AdamW", deprecated="4.28", instead="use `torch.optim.AdamW`"),
    **_of(_T, "5.0", "transformers.AutoModelWithLMHead", instead="use `AutoModelForCausalLM`, `…MaskedLM` or `…Seq2SeqLM`"),
    **_of(_T, "5.0", "transformers.AutoModelForVision2Seq=transformers.AutoModelForImageTextToText", deprecated="4.54"),
    **_of(_T, "5.0", "transformers.TextDataset transformers.LineByLineTextDataset", instead="use the `datasets` library"),
    **_of(_T, "4.42", "transformers.Conversation", instead="pass a list of messages"),
    **_of(_T, "4.46", "transformers.deepspeed=transformers.integrations.deepspeed", deprecated="4.33"),
    **_of(_T, "5.0", "transformers.TRANSFORMERS_CACHE", instead="use `huggingface_hub.constants.HF_HUB_CACHE`"),
    **_of("trl", "0.20", "trl.DataCollatorForCompletionOnlyLM", instead="set `completion_only_loss` or `assistant_only_loss` in `SFTConfig`"),
    **_of("trl", "0.26", "trl.setup_chat_format", instead="use `trl.clone_chat_template`"),
    **_of("trl", "0.20", "trl.trainer.ConstantLengthDataset trl.ConstantLengthDataset", instead="set `packing=True` in `SFTConfig`"),
    **{
        f"trl.{name}": Change("trl", "0.29", new=f"trl.experimental.{module}.{name}")
        for module, names in _EXPERIMENTAL.items()
        for name in names.split()
    },
    **{
        f"trl.{name}": Change("trl", "0.29", instead=f"the last with it is trl {last}, in `trl.experimental.{module}`")
        for names, (last, module) in _GONE_SINCE.items()
        for name in names.split()
    },
    **_of("trl", "1.13", "trl.experimental.ppo", instead="`trl.GRPOTrainer` or `trl.RLOOTrainer` train with a reward"),
    **_of("trl", "1.14", " ".join(f"trl.experimental.{name}" for name in ("bco", "nash_md", "xpo", "prm"))),
    **_of("trl", "0.14", "trl.set_seed=transformers.set_seed"),
    "torch.cuda.amp.GradScaler": Change("torch", deprecated="2.4", instead='use `torch.amp.GradScaler("cuda")`'),
    "torch.cuda.amp.autocast": Change("torch", deprecated="2.4", instead='use `torch.amp.autocast("cuda")`'),
}
"""Functions, classes and modules by the dotted name they are imported or called by, where there is advice or it is no public class."""
WATCHED = frozenset({"peft", "transformers", "trl", "torch"})
"""The libraries whose names are followed through ``import library``."""
_FRAMEWORKS = ("TF", "Flax")
"""How the classes of transformers for TensorFlow and JAX begin."""

_TOKENIZER_METHODS: Names = {
    **_of(_T, "5.0", "encode_plus batch_encode_plus", instead="call the tokenizer itself"),
    **_of(_T, "5.0", "prepare_seq2seq_batch as_target_tokenizer", instead="pass `text_target=` when calling the tokenizer"),
}
MODEL_METHODS: Names = {
    **_of(_T, "5.0", "to_bettertransformer reverse_bettertransformer", instead='load with `attn_implementation="sdpa"`'),
    **_of(_T, "5.0", "prune_heads"),
    "gradient_checkpointing_enable": Change(_T, deprecated="5.23", new="activation_checkpointing_enable", recent=True),
}


@cache
def arguments(call: str) -> Names:
    """The changed arguments of a call, by its canonical name; a method of a PEFT model is ``peft.PeftModel.method``."""
    if call.endswith(".from_pretrained"):
        return _READING if call == READING else _LOADING
    if call.endswith("push_to_hub"):
        return _PUSHING
    found = signature(call)
    if found is None:
        return {}
    advice = _BY_CALL.get(call, {}) | (_PROCESSING if call.startswith("trl.") and call.endswith("Trainer") else {})
    library = call.partition(".")[0]
    changes = {base: change for name in found.bases for base, change in arguments(name).items() if base not in found.parameters}
    inherited = {name for base in found.bases if (theirs := signature(base)) is not None for name in theirs.parameters}
    for name, life in found.parameters.items():
        if name in inherited:  # a default of its own, for a while
            continue
        told = advice.get(name, Change(library)).lived(life)
        if (life.since or life.deprecated or life.until) and (not found.open or told.ignored):
            changes[name] = told
    return changes


def exists(call: str) -> tuple[str | None, str | None]:
    """The versions between which there is a call of this name, where that is known."""
    found = signature(call)
    return (found.since, found.until) if found is not None else (None, None)


def parameters(call: str) -> frozenset[str] | None:
    """The parameters that a call has in the newest release, where its signature is known and it takes no others."""
    found = signature(call)
    bound = found is not None and not found.open and not found.bases
    return frozenset(name for name, life in found.parameters.items() if life.until is None) if found is not None and bound else None


@cache
def symbol(dotted: str) -> Change | None:
    """The change of a function, class or module, by the name it is imported or called by."""
    found = FUNCTIONS.get(dotted)
    life = public_name(dotted)
    if life is None:
        return found
    library, _, name = dotted.partition(".")
    framework = library == _T and name.startswith(_FRAMEWORKS) and name.lstrip("TFlax")[:1].isupper()
    told = found or Change(library, instead="use the PyTorch class" if framework else "")
    return replace(told, since=life.since, removed=life.until)


@cache
def last_words(library: str) -> frozenset[str]:
    """How the names end of a library's functions, classes and modules that have changed."""
    names = [name for name in (*FUNCTIONS, *public_names()) if name.startswith(f"{library}.")]
    return frozenset([name.rpartition(".")[2] for name in names])


def method(call: str) -> Change | None:
    """The change of a method, by the name a call of it is recorded under."""
    owner, _, name = call.rpartition(".")
    return _TOKENIZER_METHODS.get(name) if "Tokenizer" in owner else MODEL_METHODS.get(name) if not owner else None
