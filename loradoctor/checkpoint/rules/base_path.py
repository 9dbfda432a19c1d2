"""LD525: the config's base model is a path, or none, or a copy that is not the original."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.known_bases import advice
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule

_HOME = re.compile(r"(?:^|[\\/])(?:home|Users)[\\/]([^\\/]+)[\\/]", re.IGNORECASE)
_NOBODY = frozenset({"user", "users", "ubuntu", "ec2-user", "jovyan", "runner", "shared", "public", "root", "admin", "username"})
"""accounts of machines, which name nobody"""

_QUANTIZED = re.compile(
    r"(?:^|[-_.])(bnb|[48]-?bits?|int[48]|nf4|fp4|gptq|awq|aqlm|eetq|hqq|gguf|exl2|w4a16|w8a8|q[2-8]_[k0])(?=$|[-_.])", re.IGNORECASE
)
_MERGED = re.compile(r"(?:^|[-_.])merged(?=$|[-_.\d])", re.IGNORECASE)


@rule("LD525", Severity.WARNING, "C12")
def base_path(checkpoint: Checkpoint) -> Iterator[Finding]:
    """`base_model_name_or_path` is a path of somebody's machine, empty, or not the model that others have.

    `AutoPeftModel`, vLLM and most servers load the base model by this name. A path that is gone makes them stop, with a message
    about repository ids; a path that exists works here and nowhere else, and shows your user name when the adapter is published.
    Without a name the base must be given by hand. A directory that is an adapter itself loads as a model with that adapter in it,
    where the keys of this one match nothing.

    Worth knowing besides: a quantized copy (the adapter has learned to make up for its rounding; merging wants the original), and a
    model that another adapter was merged into. Whether `revision` pins the base is on the card.

    Set it to the hub id of the base model.
    """
    config = checkpoint.config
    if config is None or checkpoint.method.peft_type == "":
        return
    base = config.base
    if base is None:
        shape = advice(checkpoint)
        yield checkpoint.finding(
            "the config does not name a base model",
            "base_model_name_or_path",
            of="config",
            severity=Severity.INFO,
            help="programs that find the base by themselves (AutoPeftModel, servers) cannot load the adapter: set "
            f"`base_model_name_or_path`{f'. {shape}' if shape else ''}",
            data={"cause": "missing"},
        )
        return
    if is_path(base):
        yield _path(checkpoint, base)
    yield from _copies(checkpoint, base)


def _path(checkpoint: Checkpoint, base: str) -> Finding:
    exists = _exists(base) or _exists(str(checkpoint.directory / base))
    user = _user(base)
    if (place := _adapter_at(checkpoint, base)) is not None:
        return checkpoint.finding(
            f"the base model is an adapter itself: `{base}`",
            "base_model_name_or_path",
            of="config",
            help=f"`from_pretrained` loads the base of `{place.name}` with that adapter in it, where the keys of this one match "
            "nothing: merge that one first, or name its base",
            data={"cause": "adapter"},
        )
    shape = "" if exists else advice(checkpoint)
    leak = f", and it shows the user name `{user}`" if user else ""
    return checkpoint.finding(
        f"the base model is a path of one machine{'' if exists else ' that is not there'}: `{base}`",
        "base_model_name_or_path",
        of="config",
        severity=Severity.INFO if exists else Severity.WARNING,
        help=f"nobody else can load the base by this name{leak}: set `base_model_name_or_path` to its hub id{f'. {shape}' if shape else ''}",
        data={"cause": "path-exists" if exists else "path-gone", **({"user": user} if user else {})},
    )


def _copies(checkpoint: Checkpoint, base: str) -> Iterator[Finding]:
    """What the base's name, or its config when it is at hand, tells about where it comes from."""
    name = PureWindowsPath(base).name
    found = _QUANTIZED.search(name)
    facts = checkpoint.evidence.facts if checkpoint.evidence is not None else {}
    how = facts.get("base_quantization") or (found and found[1])
    if how:
        yield _note(
            checkpoint,
            "quantized",
            f"the base is a quantized copy ({how}): `{base}`",
            "the adapter was trained on its rounded weights: on the original the outputs differ a little, and merging needs the "
            "original in 16 bits",
        )
    if _MERGED.search(name):
        yield _note(
            checkpoint,
            "merged",
            f"the base is the result of a merge: `{base}`",
            "the adapter fits these weights only, not the model they were merged from: publish the merged base along with it",
        )


def _note(checkpoint: Checkpoint, cause: str, message: str, help_: str) -> Finding:
    return checkpoint.finding(
        message, "base_model_name_or_path", of="config", severity=Severity.INFO, help=help_, data={"cause": cause}
    )


def _user(base: str) -> str:
    """The account whose home directory a path lies in, ``""`` when it names nobody."""
    match = _HOME.search(base)
    return match[1] if match and match[1].lower() not in _NOBODY else ""


def _adapter_at(checkpoint: Checkpoint, base: str) -> Path | None:
    """The directory that the path means, when it holds an adapter and no model."""
    for place in (Path(base), checkpoint.directory / base):
        try:
            if (place / "adapter_config.json").is_file() and not (place / "config.json").is_file():
                return place
        except (OSError, ValueError):
            continue
    return None


def is_path(base: str) -> bool:
    """A hub id is `name` or `org/name`; everything else that looks like a path is one."""
    return base.startswith(("/", "./", "../", "~")) or base.count("/") > 1 or bool(PureWindowsPath(base).drive) or "\\" in base


def _exists(base: str) -> bool:
    try:
        return Path(base).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
