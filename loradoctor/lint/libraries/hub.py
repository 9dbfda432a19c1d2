"""The Hugging Face Hub: which strings name a repository there, and which a directory here."""

from __future__ import annotations

import re

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DIRECTORY = re.compile(
    r"(^|[_.-])(data|dirs?|exps?|hf|logs?|mnt|new|old|out|res|runs?|src|tmp|work)([_.-]|$)|adapter|archive|artifact|cache|checkpoint|"
    r"ckpt|dataset|experiment|export|fine-?tun|local|lora|merge|model|output|path|peft|pretrain|project|quant|result|save|snapshot|"
    r"store|temp|test|train|trial|weight|workspace",
    re.IGNORECASE,
)
_KEPT_HERE = re.compile(r"(^|[/_-])(checkpoint|ckpt|epoch|step|final|last|latest|best|output|merged)([_-]?\d*)$", re.IGNORECASE)


def is_repository(text: str) -> bool:
    """Whether a string names a repository beyond doubt: ``owner/name`` where neither part is what directories are called."""
    owner = text.partition("/")[0]
    return bool(_ID.fullmatch(text)) and not _DIRECTORY.search(owner) and not _KEPT_HERE.search(text)
