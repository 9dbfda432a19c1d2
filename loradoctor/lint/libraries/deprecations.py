"""Names that libraries have removed or deprecated, as data: what is gone since which version, and what stands in its place.

Boundaries are those between the released wheels that were looked at. One entry is one line; rules hold no names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to a name of ``library``: ``deprecated`` and ``removed`` are the first versions that warn, that lack it.

    ``new`` is the name that takes its place unchanged; where a rename is not enough ``instead`` says in words what to do.
    ``value`` is the new argument written out for an argument that is literally ``True``; ``drop`` when the argument may
    simply go. ``recent`` names have no successor in earlier releases: only who names the version is told of those.
    """

    library: str
    removed: str | None = None
    deprecated: str | None = None
    new: str = ""
    instead: str = ""
    value: str = ""
    drop: bool = False
    recent: bool = False

    @property
    def advice(self) -> str:
        """What to do, as a clause."""
        if self.instead:
            return self.instead
        if self.new or self.value:
            return f"write `{self.value or self.new}`"
        return "leave it out" if self.drop else "nothing takes its place"


Names = dict[str, Change]


def _of(library: str, removed: str | None, names: str, **details: object) -> Names:
    """Entries of one fate: ``names`` holds words ``old`` or ``old=new``."""
    pairs = (word.partition("=") for word in names.split())
    return {old: Change(library, removed, new=new, **details) for old, _, new in pairs}  # type: ignore[arg-type]


_T = "transformers"
_TRAINING_ARGUMENTS: Names = {
    **_of(_T, "4.51", "evaluation_strategy=eval_strategy", deprecated="4.41"),
    **_of(_T, "4.51", "dispatch_batches split_batches", deprecated="4.38", instead="put it into `accelerator_config`"),
    **_of(_T, "5.0", "no_cuda=use_cpu push_to_hub_token=hub_token push_to_hub_model_id=hub_model_id"),
    **_of(_T, "5.0", "per_gpu_train_batch_size=per_device_train_batch_size per_gpu_eval_batch_size=per_device_eval_batch_size"),
    **_of(_T, "5.0", "push_to_hub_organization", instead="name it in `hub_model_id`"),
    **_of(_T, "5.0", "fp16_backend half_precision_backend fp16_opt_level", instead="`fp16=True` or `bf16=True` is enough"),
    **_of(_T, "5.0", "fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap", instead="put it into `fsdp_config`"),
    **_of(_T, "5.0", "adafactor", value='optim="adafactor"'),
    **_of(_T, "5.0", "include_inputs_for_metrics", value='include_for_metrics=["inputs"]'),
    **_of(_T, "5.0", "include_tokens_per_second", instead="see `include_num_input_tokens_seen`"),
    **_of(_T, "5.0", "torchdynamo", instead="use `torch_compile_backend`"),
    **_of(_T, "5.0", "save_safetensors", drop=True, instead="leave it out: files are always safetensors"),
    **_of(_T, "5.0", "overwrite_output_dir use_mps_device use_legacy_prediction_loop", drop=True),
    **_of(_T, "5.0", "jit_mode_eval mp_parameters past_index ray_scope tpu_metrics_debug tpu_num_cores"),
    **_of(_T, "5.2", "group_by_length", value='train_sampling_strategy="group_by_length"'),
    **_of(_T, "5.16", "warmup_ratio", instead="`warmup_steps` takes a fraction below 1"),
    **_of(_T, "5.16", "logging_dir", instead="set the environment variable `TENSORBOARD_LOGGING_DIR`"),
    **_of(_T, "4.57.6", "use_ipex"),
    **_of(_T, "4.52", "tp_size"),
    **_of(_T, "4.35", "sharded_ddp", instead="use `fsdp`"),
    **_of(_T, "4.34", "xpu_backend", instead="use `ddp_backend`"),
    "gradient_checkpointing": Change(_T, deprecated="5.23", new="activation_checkpointing", recent=True),
    "gradient_checkpointing_kwargs": Change(_T, deprecated="5.23", new="activation_checkpointing_kwargs", recent=True),
}
_LOADING: Names = {
    **_of(_T, "5.0", "use_auth_token=token", deprecated="4.32"),
    **_of(_T, "5.0", "use_flash_attention_2", deprecated="4.36", value='attn_implementation="flash_attention_2"'),
    **_of(_T, "5.0", "torchscript"),
    **_of(_T, "5.0", "resume_download", drop=True),
    **_of(_T, None, "torch_dtype=dtype", deprecated="4.56", recent=True),
}
_PUSHING = _of(_T, "5.0", "use_auth_token=token", deprecated="4.32")
_TRAINER = _of(_T, "5.0", "tokenizer=processing_class", deprecated="4.46")

_CONFIG_TAKES_IT = {"instead": "give it to the trainer's config"}
_SFT_TRAINER: Names = {
    **_of("trl", "0.16", "tokenizer=processing_class", deprecated="0.12"),
    **_of("trl", "0.13", "dataset_text_field packing dataset_num_proc neftune_noise_alpha", instead="give it to `SFTConfig`"),
    **_of("trl", "0.13", "model_init_kwargs eval_packing dataset_kwargs", instead="give it to `SFTConfig`"),
    **_of("trl", "0.13", "max_seq_length", instead="give it to `SFTConfig`, as `max_length`"),
    **_of("trl", "0.13", "chars_per_token num_of_sequences infinite dataset_batch_size"),
    **_of("trl", "0.15", "model_init"),
}
_DPO_TRAINER: Names = {
    **_of("trl", "0.16", "tokenizer=processing_class", deprecated="0.12"),
    **_of("trl", "0.13", "beta loss_type label_smoothing max_length truncation_mode disable_dropout", instead="give it to `DPOConfig`"),
    **_of("trl", "0.13", "model_init_kwargs dataset_num_proc precompute_ref_log_probs", instead="give it to `DPOConfig`"),
    **_of("trl", "0.13", "force_use_ref_model generate_during_eval is_encoder_decoder label_pad_token_id max_prompt_length"),
    **_of("trl", "0.13", "max_target_length model_adapter_name padding_value ref_adapter_name ref_model_init_kwargs"),
    **_of("trl", "0.13", "reference_free"),
    **_of("trl", "0.19", "model_init"),
    **_of("trl", "0.29", "optimizer_cls_and_kwargs preprocess_logits_for_metrics"),
}
_SFT_CONFIG: Names = {
    **_of("trl", "0.20", "max_seq_length=max_length"),
    **_of("trl", "0.18", "use_liger=use_liger_kernel"),
    **_of("trl", "0.18", "chars_per_token num_of_sequences dataset_batch_size"),
}
_DPO_CONFIG: Names = {
    **_of("trl", "0.29", "force_use_ref_model generate_during_eval label_pad_token_id max_completion_length"),
    **_of("trl", "0.29", "max_prompt_length", instead="`max_length` bounds prompt and answer together"),
    **_of("trl", "0.29", "base_model_attribute_name model_adapter_name ref_adapter_name ref_model_init_kwargs reference_free"),
    **_of("trl", "0.29", "rpo_alpha tools use_logits_to_keep"),
    **_of("trl", "0.28", "use_liger_loss"),
    **_of("trl", "0.26", "padding_value"),
    **_of("trl", "0.17", "use_num_logits_to_keep"),
    **_of("trl", "0.15", "is_encoder_decoder"),
    **_of("trl", "0.14", "max_target_length"),
}

_ARGUMENTS: tuple[tuple[str, Names], ...] = (
    (r"trl\.SFTConfig", _SFT_CONFIG),
    (r"trl\.DPOConfig", _DPO_CONFIG),
    (r"transformers\.(Seq2Seq)?TrainingArguments|trl\.\w+Config", _TRAINING_ARGUMENTS),
    (r"trl\.SFTTrainer", _SFT_TRAINER),
    (r"trl\.DPOTrainer", _DPO_TRAINER),
    (r"transformers\.(Seq2Seq)?Trainer", _TRAINER),
    (r"transformers\.\w+\.from_pretrained", _LOADING),
    (r"push_to_hub", _PUSHING),
    (
        r"save_pretrained",
        _of("peft", "0.14", "convert_pissa_to_lora", instead="pass the untouched adapter's `path_initial_model_for_weight_conversion`"),
    ),
)

OPTIMIZERS = {"adamw_hf": Change(_T, "4.56", new="adamw_torch")}
"""Values of ``optim=`` that are gone."""

_HEADS = "CausalLM MaskedLM Seq2SeqLM SequenceClassification TokenClassification QuestionAnswering".split()

FUNCTIONS: Names = {
    **_of("peft", "0.10", "peft.prepare_model_for_int8_training=peft.prepare_model_for_kbit_training", deprecated="0.4"),
    **_of("peft", "0.19", "peft.BoneConfig=peft.MissConfig", instead="`MissConfig` is its successor"),
    **_of("peft", "0.19", "peft.BoneModel", instead="`MissModel` is its successor"),
    **_of("peft", "0.15", "peft.mapping.get_peft_model=peft.get_peft_model"),
    **_of(
        "peft",
        "0.15",
        "peft.mapping.get_peft_config=peft.get_peft_config peft.mapping.inject_adapter_in_model=peft.inject_adapter_in_model",
    ),
    **_of("peft", "0.15", "peft.mapping.MODEL_TYPE_TO_PEFT_MODEL_MAPPING", instead="import it from `peft`"),
    **_of("peft", "0.0.1", "peft.tuner.lora=peft.tuners.lora"),
    **_of(_T, "4.50", "transformers.AdamW=torch.optim.AdamW", deprecated="4.30", instead="use `torch.optim.AdamW`"),
    **_of(_T, "5.0", "transformers.AutoModelWithLMHead", instead="use `AutoModelForCausalLM`, `…MaskedLM` or `…Seq2SeqLM`"),
    **_of(_T, "5.0", "transformers.AutoModelForVision2Seq=transformers.AutoModelForImageTextToText", deprecated="4.54"),
    **_of(_T, "5.0", "transformers.TextDataset transformers.LineByLineTextDataset", instead="use the `datasets` library"),
    **_of(_T, "4.42", "transformers.Conversation", instead="pass a list of messages"),
    **_of(_T, "5.0", "transformers.SpecialTokensMixin"),
    **_of(_T, "5.0", "transformers.deepspeed=transformers.integrations.deepspeed", deprecated="4.33"),
    **_of(_T, "5.0", "transformers.TRANSFORMERS_CACHE", instead="use `huggingface_hub.constants.HF_HUB_CACHE`"),
    **_of(_T, "5.0", "transformers.TFTrainer transformers.TFAutoModel transformers.FlaxAutoModel", instead="use the PyTorch class"),
    **_of(_T, "5.0", " ".join(f"transformers.TFAutoModelFor{h}" for h in _HEADS), instead="use the PyTorch class"),
    **_of(_T, "5.0", " ".join(f"transformers.FlaxAutoModelFor{h}" for h in _HEADS), instead="use the PyTorch class"),
    **_of(
        "trl",
        "0.20",
        "trl.DataCollatorForCompletionOnlyLM",
        instead="set `completion_only_loss` or `assistant_only_loss` in `SFTConfig`",
    ),
    **_of("trl", "0.26", "trl.setup_chat_format", instead="use `trl.clone_chat_template`"),
    **_of("trl", "0.29", "trl.AutoModelForCausalLMWithValueHead trl.PPOTrainer trl.ORPOTrainer", instead="look in `trl.experimental`"),
    **_of("trl", "0.29", "trl.trainer.ConstantLengthDataset trl.ConstantLengthDataset", instead="set `packing=True` in `SFTConfig`"),
    "torch.cuda.amp.GradScaler": Change("torch", deprecated="2.4", instead='use `torch.amp.GradScaler("cuda")`'),
    "torch.cuda.amp.autocast": Change("torch", deprecated="2.4", instead='use `torch.amp.autocast("cuda")`'),
}
"""Functions, classes and modules by the dotted name they are imported or called by."""

_TOKENIZER_METHODS: Names = {
    **_of(_T, "5.0", "encode_plus batch_encode_plus", instead="call the tokenizer itself"),
    **_of(_T, "5.0", "prepare_seq2seq_batch as_target_tokenizer", instead="pass `text_target=` when calling the tokenizer"),
    **_of(_T, "5.0", "build_inputs_with_special_tokens", instead="call the tokenizer itself"),
}
MODEL_METHODS: Names = {
    **_of(_T, "5.0", "to_bettertransformer reverse_bettertransformer", instead='load with `attn_implementation="sdpa"`'),
    **_of(_T, "5.0", "prune_heads"),
    "gradient_checkpointing_enable": Change(_T, deprecated="5.23", new="activation_checkpointing_enable", recent=True),
}


@cache
def arguments(call: str) -> Names:
    """The changed arguments of a call, by its canonical name."""
    found: Names = {}
    for pattern, names in _ARGUMENTS:
        if re.fullmatch(pattern, call):
            found = names | found
    return found


def method(call: str) -> Change | None:
    """The change of a method, by the name a call of it is recorded under."""
    owner, _, name = call.rpartition(".")
    return _TOKENIZER_METHODS.get(name) if "Tokenizer" in owner else MODEL_METHODS.get(name) if not owner else None
