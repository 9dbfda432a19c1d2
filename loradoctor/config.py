"""`[tool.loradoctor]` as a frozen value; an unknown key or code is an error."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from loradoctor.diagnostic import Severity


class ConfigError(ValueError):
    """Settings that cannot be what the user meant; the message names the place and the way out."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run looks for and where; codes are resolved, paths are as the user wrote them.

    ``root`` is the directory of the file the settings come from: its patterns are relative to it.
    """

    select: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    fail_on: Severity = Severity.WARNING
    exclude: tuple[str, ...] = ()
    respect_gitignore: bool = True
    per_path_ignores: Mapping[str, frozenset[str]] = field(default_factory=dict)
    documents: bool = False
    target_versions: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    targets: tuple[str, ...] = ()
    cache: bool = True
    root: str | None = None

    def enabled(self, code: str) -> bool:
        """Whether rules with this code run at all."""
        return (self.select is None or code in self.select) and code not in self.ignore

    def overridden(
        self,
        *,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] = (),
        extend_select: Iterable[str] = (),
        fail_on: Severity | str | None = None,
        documents: bool = False,
        cache: bool = True,
    ) -> Settings:
        """These settings with what one run asks for; codes, names and code prefixes are accepted.

        ``select`` takes the place of the file's, ``ignore`` adds to it, ``extend_select`` adds to what is selected and takes
        out of what the file ignores. Raises :class:`ConfigError` for a code or name that no rule has.
        """
        extended = _codes(list(extend_select), "extend-select")
        chosen = self.select if select is None else _codes(list(select), "select")
        return replace(
            self,
            select=None if chosen is None else chosen | extended,
            ignore=(self.ignore - extended) | _codes(list(ignore), "ignore"),
            documents=self.documents or documents,
            cache=self.cache and cache,
            fail_on=self.fail_on if fail_on is None else _severity(fail_on, "fail-on"),
        )


def load(start: str = ".", config: str | None = None, isolated: bool = False) -> Settings:
    """The settings of the file ``config``, or of the nearest ``pyproject.toml`` with a table for us above ``start``.

    ``isolated`` reads no file. Raises :class:`ConfigError` when a file cannot be read or says what it cannot mean.
    """
    if isolated:
        return Settings()
    if config is not None:
        table = _table(config, _bytes(config))
        if table is None:
            raise ConfigError(f"{config}: there is no `[tool.loradoctor]` table")
        return _settings(table, config)
    for path in _candidates(start):
        if os.path.isfile(path):
            # Parsing TOML costs more than starting Python does, so files that do not mention us are not parsed.
            data = _bytes(path)
            table = _table(path, data) if b"loradoctor" in data else None
            if table is not None:
                return _settings(table, path)
    return Settings()


def _candidates(start: str) -> Iterable[str]:
    directory = os.path.abspath(start)
    if not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    parent = ""
    while directory != parent:
        yield os.path.join(directory, "pyproject.toml")
        directory, parent = os.path.dirname(directory), directory


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


def _table(path: str, data: bytes) -> Mapping[str, object] | None:
    import tomllib

    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}; `--isolated` runs without it") from None
    tools = document.get("tool", {})
    table = tools.get("loradoctor") if isinstance(tools, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f"{path}: `tool.loradoctor` must be a table, not {_kind(table)}")
    return table


def _settings(table: Mapping[str, object], path: str) -> Settings:
    for key in table:
        if key not in _KEYS:
            raise ConfigError(f"{path}: `[tool.loradoctor]` has no key `{key}`{_suggestion(key)}")
    values: dict[str, object] = {}
    for key, value in table.items():
        try:
            values[key.replace("-", "_")] = _KEYS[key](value, key)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    root = os.path.dirname(path) or "."
    python = values.get("python")
    if isinstance(python, str) and os.path.basename(python) != python:
        values["python"] = os.path.join(root, os.path.expanduser(python))
    extended = values.pop("extend_select", frozenset())
    settings = Settings(root=root, **values)  # type: ignore[arg-type] # every reader returns its field's type
    assert isinstance(extended, frozenset)  # noqa: S101
    return settings if settings.select is None else replace(settings, select=settings.select | extended)


def _suggestion(key: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(key.replace("_", "-"), _KEYS, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; there are {', '.join(f'`{k}`' for k in _KEYS)}"


def _kind(value: object) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return names.get(type(value), f"a {type(value).__name__}")


def _strings(value: object, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ConfigError(f"`{key}` must be a list of strings, not {_kind(value)}")
    return value


def _codes(value: object, key: str) -> frozenset[str]:
    selectors = _strings(value, key)
    if not selectors:
        return frozenset()
    from loradoctor.registry import UnknownRule, resolve

    try:
        return resolve(selectors)
    except UnknownRule as error:
        raise ConfigError(f"`{key}`: {error}") from None


def _severity(value: object, key: str) -> Severity:
    try:
        return Severity(value)
    except ValueError:
        names = ", ".join(f"`{s.value}`" for s in Severity)
        raise ConfigError(f"`{key}` must be one of {names}, not `{value}`") from None


def _globs(value: object, key: str) -> tuple[str, ...]:
    return tuple(_strings(value, key))


def _targets(value: object, key: str) -> tuple[str, ...]:
    from loradoctor.checkpoint.targets import UnknownTarget, known

    try:
        return known(_strings(value, key))
    except UnknownTarget as error:
        raise ConfigError(f"`{key}`: {error}") from None


def _flag(value: object, key: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"`{key}` must be `true` or `false`, not {_kind(value)}")
    return value


def _string(value: object, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"`{key}` must be a string that is not empty, not {_kind(value)}")
    return value


def _path_ignores(value: object, key: str) -> dict[str, frozenset[str]]:
    if not isinstance(value, dict):
        raise ConfigError(f"`{key}` must be a table of patterns, each with a list of codes, not {_kind(value)}")
    return {pattern: _codes(codes, f"{key}.{pattern}") for pattern, codes in value.items()}


def _versions(value: object, key: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) and re.match(r"\d+(\.\d+)*$", v) for v in value.values()):
        raise ConfigError(f'`{key}` must be a table of versions, as in `{{ peft = "0.17" }}`')
    from loradoctor.lint.versions import LIBRARIES

    unknown = next((name for name in value if name not in LIBRARIES), None)
    if unknown is not None:
        raise ConfigError(f"`{key}`: `{unknown}` is not one of {', '.join(f'`{name}`' for name in sorted(LIBRARIES))}")
    return dict(value)


_KEYS: Mapping[str, Callable[[object, str], object]] = {
    "select": _codes,
    "ignore": _codes,
    "extend-select": _codes,
    "fail-on": _severity,
    "exclude": _globs,
    "respect-gitignore": _flag,
    "per-path-ignores": _path_ignores,
    "documents": _flag,
    "target-versions": _versions,
    "python": _string,
    "targets": _targets,
    "cache": _flag,
}
