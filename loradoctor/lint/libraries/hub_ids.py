"""Which architecture a model on the Hub has, by its name: exact where transformers' own documentation says so, by family elsewhere.

A family is a set of repositories with one naming scheme whose members all have the same modules; mirrors and quantized copies
keep the scheme and add endings. What follows no scheme here has no answer: a fine-tune under a name of its own, repositories
that bring their own code, families whose members differ, vision-language models over any language model.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_ENDINGS = (
    r"(?:[-_.](?:instruct|chat|base|hf|it|pt|bnb|4bit|8bit|nf4|unsloth|dynamic|gptq|awq|int[48]|fp8|bf16|fp16|w4a16|sharded|thinking|"
    r"reasoning|preview|deduped|\d{4}|\d+k|v\d(?:\.\d)?))*"
)
"""What copies and variants of one model add to its name."""

_FAMILIES = {
    "llama": r"(?:meta-)?llama-2-(?:7|13|70)b|(?:meta-)?llama-3(?:\.1)?-(?:8|70|405)b|llama-3\.2-[13]b|llama-3\.3-70b|llama-(?:7|13|30|65)b|"
    r"open_llama_(?:3|7|13)b|codellama-(?:7|13|34|70)b(?:-python)?|vicuna-(?:7|13|33)b(?:-v1\.[135])?|"
    r"tinyllama-1\.1b(?:-(?:step|intermediate-step)-\w+-\w+)?|tinyllama|smollm2?-(?:135m|360m|1\.7b)|yi-(?:6|9|34)b|yi-1\.5-(?:6|9|34)b|"
    r"deepseek-(?:coder-(?:1\.3|6\.7|33)b|llm-(?:7|67)b)|deepseek-r1-distill-llama-(?:8|70)b|falcon3-(?:1|3|7|10)b|solar-10\.7b",
    "mistral": r"mistral-7b|mathstral-7b|mistral-nemo|mistral-nemo-(?:base|instruct)|mistral-small|mistral-small-24b|"
    r"mistral-large|zephyr-7b-(?:alpha|beta)",
    "mixtral": r"mixtral-8x(?:7|22)b",
    "qwen2": r"qwen1\.5-(?:0\.5|1\.8|4|7|14|32|72|110)b|qwen2-(?:math-)?(?:0\.5|1\.5|7|72)b|"
    r"qwen2\.5-(?:coder-|math-)?(?:0\.5|1\.5|3|7|14|32|72)b|qwq-32b|deepseek-r1-distill-qwen-(?:1\.5|7|14|32)b",
    "qwen3": r"qwen3-(?:embedding-)?(?:0\.6|1\.7|4|8|14|32)b",
    "qwen3_moe": r"qwen3-(?:30b-a3b|235b-a22b)",
    "qwen2_vl": r"qwen2-vl-(?:2|7|72)b",
    "qwen2_5_vl": r"qwen2\.5-vl-(?:3|7|32|72)b",
    "gemma": r"(?:code)?gemma-(?:2|7)b|gemma-1\.1-(?:2|7)b",
    "gemma2": r"gemma-2-(?:2|9|27)b",
    "gemma3_text": r"gemma-3-(?:270m|1b)",
    "gemma3": r"gemma-3-(?:4|12|27)b",
    "gpt2": r"gpt2(?:-medium|-large|-xl)?|distilgpt2|dialogpt-(?:small|medium|large)",
    "gpt_neo": r"gpt-neo-(?:125m|1\.3b|2\.7b)",
    "gptj": r"gpt-j-6b",
    "gpt_neox": r"gpt-neox-20b|pythia-(?:14|31|70|160|410)m|pythia-(?:1|1\.4|2\.8|6\.9|12)b|dolly-v2-(?:3|7|12)b|stablelm-(?:base|tuned)-alpha-[37]b",
    "gpt_bigcode": r"starcoder|starcoderbase|starcoderbase-[137]b|starchat-(?:alpha|beta)",
    "starcoder2": r"starcoder2-(?:3|7|15)b",
    "codegen": r"codegen-(?:350m|2b|6b|16b)-(?:mono|multi|nl)",
    "opt": r"opt-(?:125m|350m|1\.3b|2\.7b|6\.7b|13b|30b|66b)",
    "bloom": r"bloomz?-(?:560m|1b1|1b7|3b|7b1)(?:-mt|-p3)?|bloomz?",
    "falcon": r"falcon-(?:rw-1b|7b|40b|180b)",
    "mpt": r"mpt-(?:7|30)b",
    "olmo": r"olmo-[17]b-hf",
    "olmo2": r"olmo-2-(?:0425-1b|1124-(?:7|13)b|0325-32b)",
    "granite": r"granite-3\.[0-3]-[28]b",
    "gpt_oss": r"gpt-oss-(?:20|120)b",
    "smollm3": r"smollm3-3b",
    "t5": r"t5-(?:small|base|large|3b|11b)|(?:flan|byt5|code)-?t5-(?:small|base|large|xl|xxl)|codet5-(?:small|base|large)|"
    r"t5-v1_1-(?:small|base|large|xl|xxl)|byt5-(?:small|base|large|xl|xxl)",
    "mt5": r"(?:mt5|mt0)-(?:small|base|large|xl|xxl)(?:-mt|-p3)?",
    "bert": r"bert-(?:base|large)-(?:un)?cased(?:-whole-word-masking(?:-finetuned-squad)?)?|bert-base-multilingual-(?:un)?cased|"
    r"bert-base-(?:chinese|german-cased|german-dbmdz-(?:un)?cased)|chinese-(?:roberta-wwm-ext(?:-large)?|bert-wwm(?:-ext)?|macbert-(?:base|large))|"
    r"scibert_scivocab_(?:un)?cased|all-minilm-l(?:6|12)-v[12]|bge-(?:small|base|large)-(?:en|zh)(?:-v1\.5)?|e5-(?:small|base|large)(?:-v2)?",
    "roberta": r"(?:distil)?roberta-(?:base|large)(?:-mnli)?|codebert-base|twitter-roberta-base(?:-sentiment)?(?:-latest)?|phobert-(?:base|large)",
    "xlm-roberta": r"xlm-roberta-(?:base|large)|bge-m3|multilingual-e5-(?:base|large)",
    "distilbert": r"distilbert-base-(?:un)?cased(?:-distilled-squad|-finetuned-sst-2-english)?|distilbert-base-multilingual-cased",
    "deberta": r"deberta-(?:base|large|xlarge)(?:-mnli)?",
    "deberta-v2": r"deberta-v2-x{1,2}large|(?:deberta|mdeberta)-v3-(?:xsmall|small|base|large)",
    "electra": r"electra-(?:small|base|large)-(?:discriminator|generator)",
    "albert": r"albert-(?:base|large|x{1,2}large)-v[12]",
    "modernbert": r"modernbert-(?:base|large)",
    "xlnet": r"xlnet-(?:base|large)-cased",
    "bart": r"bart-(?:base|large)(?:-cnn|-xsum|-mnli)?|distilbart-(?:cnn|xsum)-\d+-\d+",
    "m2m_100": r"nllb-200-(?:distilled-)?(?:600m|1\.3b|3\.3b)|m2m100_(?:418m|1\.2b)",
    "marian": r"opus-mt-[a-z]+-[a-z]+",
    "whisper": r"whisper-(?:tiny|base|small|medium|large)(?:\.en)?(?:-v[23])?(?:-turbo)?|distil-(?:small|medium|large)(?:\.en|-v[23](?:\.5)?)",
    "wav2vec2": r"wav2vec2-(?:base|large)(?:-960h|-100h)?|wav2vec2-large-xlsr-53|wav2vec2-xls-r-(?:300m|1b|2b)",
    "vit": r"vit-(?:base|large|huge)-patch\d+-\d+(?:-in21k)?",
    "clip": r"clip-vit-(?:base|large)-patch\d+(?:-336)?",
    "swin": r"swin-(?:tiny|small|base|large)-patch\d+-window\d+-\d+(?:-in22k)?",
    "dinov2": r"dinov2-(?:small|base|large)",
}
_OF_OWNER = {
    # Copies of these under other owners, Unsloth's among them, have their projections split and are of another architecture.
    "microsoft": {
        "phi": r"phi-1|phi-1_5|phi-2",
        "phi3": r"phi-3-(?:mini|medium)-\d+k-instruct|phi-3\.5-mini-instruct|phi-4|phi-4-mini-instruct",
    },
}
_TIED = (
    r"qwen2\.5-(?:coder-|math-)?(?:0\.5|1\.5|3)b|qwen2-(?:0\.5|1\.5)b|qwen3-(?:0\.6|1\.7|4)b|gemma-(?:2|7)b|gemma-2-(?:2|9|27)b|"
    r"gemma-3-(?:270m|1b|4b|12b|27b)|llama-3\.2-[13]b|smollm2?-(?:135m|360m|1\.7b)|(?:distil)?gpt2(?:-medium|-large|-xl)?|"
    r"opt-(?:125m|350m|1\.3b|2\.7b|6\.7b|13b|30b|66b)|bloomz?-(?:560m|1b1|1b7|3b|7b1)"
)
_UNTIED = (
    r"(?:meta-)?llama-2-(?:7|13|70)b|(?:meta-)?llama-3(?:\.1)?-(?:8|70)b|llama-3\.3-70b|llama-(?:7|13|30|65)b|mistral-7b|mixtral-8x(?:7|22)b|"
    r"qwen2\.5-(?:coder-|math-)?(?:7|14|32|72)b|qwen2-(?:7|72)b|qwen3-(?:8|14|32)b|tinyllama-1\.1b|vicuna-(?:7|13)b|pythia-.*"
)
_OWNERLESS = re.compile(
    r"(?:distil)?gpt2(?:-.*)?|(?:distil|xlm-)?(?:bert|roberta)-.*|t5-(?:small|base|large|3b|11b)|(?:albert|xlnet|bert)-.*|distilbert-.*"
)
"""Names from before the Hub had owners."""


def architecture_of(name: str) -> str | None:
    """The ``model_type`` of a repository on the Hub, None where the name does not decide it."""
    owner, slash, last = name.rpartition("/")
    if "/" in owner or (slash and not owner) or owner in (".", "..", "~") or not last:
        return None
    return exact().get(name) or families(name)


def families(name: str) -> str | None:
    """What the naming scheme says alone."""
    owner, slash, last = name.rpartition("/")
    if not slash and not _OWNERLESS.fullmatch(last):
        return None
    start = re.match(r"[a-z]{0,4}", last.lower())
    key = start[0] if start else ""
    named = _FAMILIES | _OF_OWNER.get(owner, {})
    # only families that mention how the name begins: compiling all of them would take longer than reading the file
    return next((kind for kind, pattern in named.items() if key in pattern and _family(pattern).fullmatch(last)), None)


def ties_embeddings(name: str) -> bool | None:
    """Whether a repository's model has one tensor for input and output embeddings; None where its name does not say."""
    if architecture_of(name) is None:
        return None
    last = name.rpartition("/")[2]
    return True if _family(_TIED).fullmatch(last) else False if _family(_UNTIED).fullmatch(last) else None


@cache
def exact() -> dict[str, str]:
    """Repositories and their architectures; `tools/hub_ids.py` writes the table."""
    import json  # only a file that names targets pays for reading the table

    found: dict[str, str] = json.loads(files(__package__).joinpath("hub_ids.json").read_bytes())
    return found


@cache
def _family(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern}){_ENDINGS}", re.IGNORECASE)
