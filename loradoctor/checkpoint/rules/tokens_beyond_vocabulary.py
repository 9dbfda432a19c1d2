"""LD530: token numbers that the base or the file does not have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.plain import is_embedding
from loradoctor.checkpoint.wording import evidence, listed, verb
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_LIMIT = 16 << 20
"""Bytes of a tokenizer file that are read; real ones of these names are far smaller."""


@rule("LD530", Severity.ERROR, "F6", "C17")
def tokens_beyond_vocabulary(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Trained or added tokens do not fit the rows there are.

    `trainable_token_indices` names one row of the embedding for each row that was saved; another count stops loading with a size
    mismatch, and an index beyond the vocabulary with an `IndexError`. A tokenizer saved with the adapter whose added tokens lie
    beyond the vocabulary of the base fails at the first prompt that uses one, because the adapter brings no embedding for them.

    Restore the list as it was in training. For added tokens resize the base's embeddings and train or save them with the adapter.
    """
    wanted = _indices(checkpoint)
    rows = [k for k in checkpoint.keys if k.role == "trainable_tokens_delta"]
    if checkpoint.comparable is not None and any(wanted.values()) and not rows:
        yield checkpoint.finding(
            f"`{_field(checkpoint)}` names trained tokens, but the file has no `trainable_tokens_delta`",
            _field(checkpoint),
            of="config",
            help="PEFT stops with a KeyError: save the adapter again, or remove the field when no tokens were trained",
            data={"cause": "rows-missing"},
        )
    yield from _counts(checkpoint, wanted)
    vocabulary = checkpoint.evidence.vocabulary if checkpoint.evidence is not None else None
    if vocabulary is None:
        return
    beyond = sorted({i for indices in wanted.values() for i in indices if i >= vocabulary})
    if beyond:
        yield checkpoint.finding(
            f"{listed(beyond)} {verb(len(beyond), 'is', 'are')} beyond the {vocabulary} tokens of the base",
            _field(checkpoint),
            of="config",
            help="PEFT stops with an IndexError: this is another base, or its embeddings were resized before training",
            data=evidence("index", [str(i) for i in beyond], vocabulary=vocabulary),
        )
    yield from _added(checkpoint, vocabulary)


def _field(checkpoint: Checkpoint) -> str:
    return "token_indices" if checkpoint.method.peft_type == "TRAINABLE_TOKENS" else "trainable_token_indices"


def _indices(checkpoint: Checkpoint) -> dict[str, list[int]]:
    """Module name (``""`` for the input embedding) → the token numbers that the config lists."""
    raw: Any = checkpoint.config.get(_field(checkpoint)) if checkpoint.config is not None else None
    listed_: dict[Any, Any] = raw if isinstance(raw, dict) else {"": raw}
    return {
        str(name): [i for i in values if isinstance(i, int) and not isinstance(i, bool)]
        for name, values in listed_.items()
        if isinstance(values, list)
    }


def _counts(checkpoint: Checkpoint, wanted: dict[str, list[int]]) -> Iterator[Finding]:
    for key in checkpoint.keys:
        shape = checkpoint.tensors[key.name].shape
        if key.role != "trainable_tokens_delta" or not shape:
            continue
        indices = next((v for name, v in wanted.items() if not name or key.module == name or key.module.endswith(f".{name}")), None)
        if indices is not None and len(indices) != shape[0]:
            yield checkpoint.finding(
                f"`{_field(checkpoint)}` lists {len(indices)} tokens, but `{key.name}` has {shape[0]} rows",
                _field(checkpoint),
                of="config",
                help="PEFT stops with a size mismatch: restore the list as it was in training, in its order",
                data=evidence("count", [key.name], listed=len(indices), rows=shape[0]),
            )
            return


def _added(checkpoint: Checkpoint, vocabulary: int) -> Iterator[Finding]:
    if any(not k.role and is_embedding(k) for k in checkpoint.keys):
        return  # the adapter brings its own embeddings; whether they fit is LD616
    for file, tokens in _tokenizer(checkpoint):
        beyond = sorted(number for number in tokens if number >= vocabulary)
        if beyond:
            yield checkpoint.finding(
                f"`{file}` has {len(beyond)} tokens beyond the {vocabulary} of the base ({listed(beyond)}), and the file has no "
                "embeddings for them",
                of="directory",
                severity=Severity.WARNING,
                help="the first prompt with such a token fails, and servers refuse the adapter: resize the base's embeddings and save "
                "them with the adapter",
                data=evidence("tokenizer", [str(i) for i in beyond], vocabulary=vocabulary),
            )
            return


def _tokenizer(checkpoint: Checkpoint) -> Iterator[tuple[str, list[int]]]:
    """The numbers of the added tokens that each tokenizer file names; unreadable files name none."""
    for name in ("added_tokens.json", "tokenizer_config.json"):
        path = checkpoint.directory / name
        try:
            if not path.is_file() or path.stat().st_size > _LIMIT:
                continue
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if not isinstance(raw, dict):
            continue
        decoder = raw.get("added_tokens_decoder")
        numbers = (
            raw.values() if name == "added_tokens.json" else (int(k) for k in decoder if k.isdecimal()) if isinstance(decoder, dict) else ()
        )
        yield name, [n for n in numbers if isinstance(n, int) and not isinstance(n, bool)]
