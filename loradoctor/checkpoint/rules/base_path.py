"""LD525: the config's base model is a path, or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD525", Severity.WARNING, "C12")
def base_path(checkpoint: Checkpoint) -> Iterator[Finding]:
    """`base_model_name_or_path` is a path of somebody's machine, or empty.

    `AutoPeftModel`, vLLM and most servers load the base model by this name. A path that is gone makes them stop, with a message
    about repository ids; a path that exists works here and nowhere else, and shows your user name when the adapter is published.
    Without a name the base must be given by hand.

    Set it to the hub id of the base model.
    """
    config = checkpoint.config
    if config is None or checkpoint.method.peft_type == "":
        return
    base = config.base
    if base is None:
        yield checkpoint.finding(
            "the config does not name a base model",
            "base_model_name_or_path",
            of="config",
            severity=Severity.INFO,
            help="programs that find the base by themselves (AutoPeftModel, servers) cannot load the adapter: set "
            "`base_model_name_or_path`",
            data={"cause": "missing"},
        )
        return
    if not _is_path(base):
        return
    exists = _exists(base) or _exists(str(checkpoint.directory / base))
    yield checkpoint.finding(
        f"the base model is a path of one machine{'' if exists else ' that is not there'}: `{base}`",
        "base_model_name_or_path",
        of="config",
        severity=Severity.INFO if exists else Severity.WARNING,
        help="nobody else can load the base by this name: set `base_model_name_or_path` to its hub id",
        data={"cause": "path-exists" if exists else "path-gone"},
    )


def _is_path(base: str) -> bool:
    """A hub id is `name` or `org/name`; everything else that looks like a path is one."""
    return base.startswith(("/", "./", "../", "~")) or base.count("/") > 1 or bool(PureWindowsPath(base).drive) or "\\" in base


def _exists(base: str) -> bool:
    try:
        return Path(base).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
