"""The functions behind ``loradoctor.lint`` and ``loradoctor.check``: a command line's work, returned as a report."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from loradoctor.config import ConfigError, Settings, load

if TYPE_CHECKING:
    from loradoctor.diagnostic import Report, Severity

Path = str | os.PathLike[str]
Paths = Path | Iterable[Path]


def lint(
    paths: Paths,
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    extend_select: Iterable[str] = (),
    fail_on: Severity | str | None = None,
    documents: bool = False,
    config: Path | None = None,
    isolated: bool = False,
) -> Report:
    """Find PEFT bugs in Python files and notebooks; directories are searched. Nothing is executed.

    The arguments are those of ``loradoctor lint``; settings come from the nearest ``pyproject.toml`` above the first path
    unless ``config`` names a file or ``isolated`` forbids it. Raises :class:`loradoctor.ConfigError` for settings that
    mean nothing.
    """
    from loradoctor.lint.run import lint as run

    listed = _listed(paths)
    settings = _settings(listed, config, isolated=isolated)
    chosen = settings.overridden(select=select, ignore=ignore, extend_select=extend_select, fail_on=fail_on, documents=documents)
    return run(listed, chosen)


def check(
    path: Paths,
    base: Path | None = "auto",
    *,
    merged: Path | None = None,
    merge: bool = True,
    device: str = "cpu",
    forward: bool = False,
    online: bool = False,
    python: Path | None = None,
    timeout: float = 600,
    targets: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    fail_on: Severity | str | None = None,
    config: Path | None = None,
    isolated: bool = False,
) -> Report:
    """Examine an adapter checkpoint, or several, alone (``base=None``) or against their base model.

    ``base`` is ``"auto"`` (use it if it is found on this machine), a directory or an id of the Hub that must be had;
    ``merged`` is the directory of a merged model to hold against the two, ``device`` is where merges are computed
    (``"cpu"``, ``"cuda"`` or ``"auto"``), ``timeout`` is in seconds, ``targets`` are runtimes
    to judge for as well (``"vllm"``, …). The other arguments are those of ``loradoctor check``.

    Raises :class:`loradoctor.TargetError` when a target, a merged model or a base that was insisted on cannot be had, and
    :class:`loradoctor.ConfigError` for settings that mean nothing.
    """
    from loradoctor.checkpoint.run import CheckOptions, check_many

    listed = _listed(path)
    settings = _settings([p for p in listed if os.access(p, os.F_OK)], config, isolated=isolated)
    interpreter = settings.python if python is None else os.fspath(python)
    options = CheckOptions(
        base="none" if base is None else os.fspath(base),
        python=interpreter,
        online=online,
        forward=forward,
        merge=merge,
        merged=None if merged is None else os.fspath(merged),
        device=device,
        timeout=timeout,
        targets=settings.targets if targets is None else _targets(targets),
        settings=settings.overridden(ignore=ignore, fail_on=fail_on),
    )
    return check_many(listed, options)


def _targets(names: Iterable[str]) -> tuple[str, ...]:
    from loradoctor.checkpoint.targets import UnknownTarget, known

    try:
        return known([names] if isinstance(names, str) else names)
    except UnknownTarget as error:
        raise ConfigError(str(error)) from None


def _listed(paths: Paths) -> list[str]:
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not several:
        raise ConfigError("no path was given")
    return [os.fspath(path) for path in several]


def _settings(paths: list[str], config: Path | None, *, isolated: bool) -> Settings:
    return load(paths[0] if paths else ".", None if config is None else os.fspath(config), isolated)
