"""What each library's calls do to a model, as tables. Supporting a new library is one file here; no rule changes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from loradoctor.lint.libraries.effects import Spec

_FLATTENED = frozenset(
    """
    peft transformers trl accelerate bitsandbytes diffusers sentence_transformers unsloth safetensors datasets evaluate
    """.split()
)
"""Libraries whose public names are the same wherever they are imported from: submodules are dropped from dotted names."""

_HARMLESS = _FLATTENED | frozenset(
    """
    builtins torch numpy np os sys re json math time random logging copy gc warnings pathlib shutil glob pprint textwrap
    inspect functools itertools collections dataclasses typing contextlib argparse datetime subprocess tempfile csv
    pickle string tqdm rich wandb mlflow tensorboard pandas matplotlib seaborn sklearn scipy IPython PIL cv2 nltk
    rouge_score sacrebleu huggingface_hub torchvision torchaudio torchinfo torchsummary torchmetrics psutil GPUtil
    einops yaml dotenv requests loguru click typer fire gradio streamlit tiktoken sentencepiece tokenizers jiwer librosa
    soundfile GPUtil pynvml
    """.split()
)
"""Libraries whose calls do not rewire a model they are given, unless a table below says what they do."""


WELL_KNOWN = {
    name: f"{library}.{name}"
    for library, names in {
        "peft": "get_peft_model PeftModel PeftMixedModel PeftConfig TaskType AutoPeftModel AutoPeftModelForCausalLM AutoPeftModelForSeq2SeqLM "
        "PeftModelForCausalLM PeftModelForSeq2SeqLM PeftModelForSequenceClassification LoraConfig AdaLoraConfig IA3Config LoHaConfig LoKrConfig "
        "PromptTuningConfig PrefixTuningConfig PromptEncoderConfig prepare_model_for_kbit_training prepare_model_for_int8_training "
        "get_peft_model_state_dict set_peft_model_state_dict inject_adapter_in_model",
        "transformers": "Trainer TrainingArguments Seq2SeqTrainer Seq2SeqTrainingArguments AutoModel AutoModelForCausalLM AutoModelForSeq2SeqLM "
        "AutoModelForSequenceClassification AutoModelForTokenClassification AutoModelForImageTextToText AutoModelForSpeechSeq2Seq AutoTokenizer "
        "LlamaForCausalLM LlamaTokenizer BitsAndBytesConfig DataCollatorForLanguageModeling DataCollatorForSeq2Seq",
        "trl": "SFTTrainer SFTConfig DPOTrainer DPOConfig GRPOTrainer GRPOConfig KTOTrainer KTOConfig RewardTrainer RewardConfig",
        "unsloth": "FastLanguageModel",
    }.items()
    for name in names.split()
} | {"torch": "torch", "__loradoctor_block__": "loradoctor.block"}
"""What a name that nothing binds means in a document, whose imports often stand in another chapter."""


@cache
def canonical(dotted: str) -> str:
    """One name for every way to import a library object: ``peft.peft_model.PeftModel`` is ``peft.PeftModel``."""
    parts = dotted.split(".")
    if parts[0] not in _FLATTENED or len(parts) <= 2:
        return dotted
    first = next((i for i in range(1, len(parts)) if parts[i][:1].isupper()), len(parts) - 1)
    return ".".join((parts[0], *parts[first:]))


@cache
def is_harmless(dotted: str) -> bool:
    """Whether an untabled call into this library leaves its arguments as they were."""
    return dotted.partition(".")[0] in _HARMLESS


@cache
def function_spec(dotted: str) -> Spec | None:
    """What calling a library function or class does."""
    exact, patterns, _ = _tables()
    found = exact.get(dotted)
    if found is not None:
        return found
    root = dotted.partition(".")[0]
    return next((spec for pattern, spec in patterns.get(root, ()) if _compiled(pattern).fullmatch(dotted)), None)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # on demand: compiling all patterns would cost as much as parsing a short script
    return re.compile(pattern)


@cache
def method_spec(kind: str, name: str) -> Spec | None:
    """What calling a method does on a receiver of this kind (the name of its facts, ``Unknown``, ``Derived:tuner`` …)."""
    return _tables()[2].get((kind, name))


@cache
def vocabulary() -> frozenset[str]:
    """Names whose appearance makes a function worth entering."""
    exact, _, methods = _tables()
    names = {dotted.rpartition(".")[2] for dotted in exact} | {name for _, name in methods}
    return frozenset(names - _EVERYDAY) | _ARGUMENTS


_EVERYDAY = frozenset(
    """
    partial isinstance getattr setattr list tuple sorted iter enumerate filter map zip join exit quit _exit Path tqdm trange to
    cuda cpu eval half float bfloat16 double train modules children named_modules named_children __call__ step next
    super dict vars asdict get field getenv cli parse strip rstrip format joinpath resolve absolute expanduser as_posix
    abspath realpath normpath fspath str dirname
    """.split()
)
"""Tabled for the values they pass on; alone they do not make a function worth entering."""

_ARGUMENTS = frozenset(
    """
    from_pretrained LoraConfig PeftModel Trainer requires_grad load_in_4bit load_in_8bit quantization_config is_trainable task_type
    peft_config target_modules modules_to_save init_lora_weights gradient_checkpointing
    """.split()
)
"""Words that are no call of their own but decide what one does."""

Exact = dict[str, Spec]
Patterns = dict[str, list[tuple[str, Spec]]]
"""By library: what a pattern says before its first dot, one name or ``(one|other)``."""
Methods = dict[tuple[str, str], Spec]


@cache
def _tables() -> tuple[Exact, Patterns, Methods]:
    from loradoctor.lint.libraries import diffusers, files, frameworks, peft, python, settings, torch, transformers, trl

    exact: Exact = {}
    patterns: Patterns = {}
    methods: Methods = {}
    for table in (python, files, settings, torch, peft, diffusers, transformers, trl, frameworks):
        exact |= table.FUNCTIONS
        for pattern, spec in table.PATTERNS.items():
            for library in pattern.partition(r"\.")[0].strip("()").split("|"):
                patterns.setdefault(library, []).append((pattern, spec))
        for kinds, named in table.METHODS.items():
            methods |= {(kind, name): spec for kind in kinds for name, spec in _each(named)}
    return exact, patterns, methods


def _each(named: dict[str, Spec]) -> Iterable[tuple[str, Spec]]:
    for names, spec in named.items():
        for name in names.split():
            yield name, spec
