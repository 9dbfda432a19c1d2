"""Vocabularies of well-known models: rows of the embeddings, tokens of the tokenizer, and what the tokenizer has and does.

A family is named where all its repositories agree; mirrors and fine-tunes, which add tokens or change the template, are left out
where that would matter. Rows are `vocab_size` of the published configurations, tokens what `len(tokenizer)` gives.
"""

from __future__ import annotations

import re
from functools import cache

from loradoctor.lint.record import record


@record
class Vocabulary:
    """``rows`` of the embeddings (the fewest of the family), ``tokens`` of the tokenizer (the most).

    ``unpadded``: there is no padding token. ``begins``: the chat template writes the token that the tokenizer puts first
    anyway. ``plain``: `<|im_start|>` is not among the tokens.
    """

    rows: int
    tokens: int
    unpadded: bool = False
    begins: bool = False
    plain: bool = False


_FAMILIES: tuple[tuple[str, Vocabulary], ...] = (
    (r"(.+/)?(gpt2(-medium|-large|-xl)?|distilgpt2)", Vocabulary(50257, 50257, unpadded=True, plain=True)),
    (r"meta-llama/llama-2-\d+b-chat-hf", Vocabulary(32000, 32000, unpadded=True, begins=True, plain=True)),
    (r"meta-llama/llama-2-\d+b-hf", Vocabulary(32000, 32000, unpadded=True, plain=True)),
    (r"(.+/)?llama-2-\d+b-chat(-hf)?", Vocabulary(32000, 32000, begins=True, plain=True)),
    (r"(.+/)?(llama-2-\d+b|llama-\d+b|open_llama_\d+b)(-hf)?", Vocabulary(32000, 32000, plain=True)),
    (r"(.+/)?(meta-)?llama-3(\.[123])?-(1|3|8|70|405)b-instruct", Vocabulary(128256, 128256, begins=True, plain=True)),
    (r"(.+/)?(meta-)?llama-3(\.[123])?-(1|3|8|70|405)b", Vocabulary(128256, 128256, plain=True)),
    (r"mistralai/mistral-7b-instruct-v0\.[123]", Vocabulary(32000, 32000, unpadded=True, begins=True, plain=True)),
    (r"(mistralai/)?mistral-7b-v0\.[13]", Vocabulary(32000, 32000, unpadded=True, plain=True)),
    (r"mistralai/mixtral-8x(7|22)b-instruct-v0\.1", Vocabulary(32000, 32000, begins=True, plain=True)),
    (r"(.+/)?mistral-7b(-instruct)?-v0\.[123]", Vocabulary(32000, 32000, plain=True)),
    (r"tinyllama/tinyllama-1\.1b-.+", Vocabulary(32000, 32000, plain=True)),
    (r"google/gemma-(1\.1-)?[27]b-it|google/gemma-2-(2|9|27)b-it", Vocabulary(256000, 256000, begins=True, plain=True)),
    (r"google/gemma-[27]b|google/gemma-2-(2|9|27)b", Vocabulary(256000, 256000, plain=True)),
    (r"tiiuae/falcon-(7b|40b|180b)(-instruct)?", Vocabulary(65024, 65024, plain=True)),
    (r"qwen/qwen-(1_8|7|14|72)b(-chat)?", Vocabulary(151936, 151860)),
    (r"(.+/)?qwen(1\.5|2|2\.5|3)-(coder-|math-)?[\d.]+b(-a[\d.]+b)?(-(base|chat|instruct|thinking))?(-\d{4})?", Vocabulary(151936, 151669)),
    (r"(.+/)?qwen2(\.5)?-vl-\d+b(-instruct)?", Vocabulary(151936, 151665)),
    (r"microsoft/phi-(1|1_5|2)", Vocabulary(51200, 50295, plain=True)),
    (r"microsoft/phi-3(\.5)?-mini(-\d+k)?-instruct", Vocabulary(32064, 32011)),
    (r"(facebook/)?opt-(125m|350m|1\.3b|2\.7b|6\.7b|13b|30b|66b)", Vocabulary(50272, 50265, plain=True)),
    (r"(bigscience/)?bloomz?(-560m|-1b1|-1b7|-3b|-7b1)?", Vocabulary(250880, 250680)),
    (r"(google/|google-t5/)?(flan-t5|t5)-(small|base|large|xl|xxl|3b|11b)", Vocabulary(32128, 32100)),
    (r"(eleutherai/)?(pythia-[\d.]+[mb](-deduped)?(-v0)?|gpt-neox-20b)", Vocabulary(50304, 50277, plain=True)),
)


@cache
def vocabulary(source: object) -> Vocabulary | None:
    """What is known of a model on the Hub by its id."""
    name = source.lower() if isinstance(source, str) else ""
    return next((known for pattern, known in _FAMILIES if re.fullmatch(pattern, name)), None) if name else None
