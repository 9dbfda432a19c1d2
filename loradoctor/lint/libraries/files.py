"""Paths put together: `os.path`, `pathlib` and the methods of strings, as far as they keep what is known of a path."""

from __future__ import annotations

from loradoctor.lint.flow.values import Known, Template, Unknown, Value, concat
from loradoctor.lint.libraries.effects import Context, Spec


def join(parts: tuple[Value, ...]) -> Value | None:
    """What `os.path.join` makes of its arguments: an absolute one starts anew."""
    pieces: list[Value] = []
    for part in parts:
        if isinstance(part, Known) and part.value == "":
            continue
        absolute = isinstance(part, Known) and str(part.value).startswith("/")
        pieces = [part] if absolute or not pieces else [*pieces, Known("/"), part]
    return concat(pieces) if pieces else None


def _join(context: Context) -> Value | None:
    return None if context.binding.open else join(context.binding.positional)


def _join_to(context: Context) -> Value | None:
    if context.binding.open or context.receiver is None:
        return None
    return join((context.receiver, *context.binding.positional))


def _same_text(context: Context) -> Value | None:
    value = context.arg("path")
    if isinstance(value, Known):
        return Known(str(value.value))
    return value if isinstance(value, (Template, Unknown)) else None


def _itself(context: Context) -> Value | None:
    return context.receiver


def _stripped(context: Context) -> Value | None:
    """`text.rstrip("/")` is the same path; any other stripping is done where the text is known."""
    value, what = context.receiver, context.known("characters")
    if isinstance(value, Known) and isinstance(value.value, str) and isinstance(what, str):
        return Known(value.value.rstrip(what))
    return value if what == "/" else None


def _format(context: Context) -> Value | None:
    """`"out/{}-{name}".format(…)` without conversions."""
    from string import Formatter

    template = context.receiver
    if not isinstance(template, Known) or not isinstance(template.value, str) or context.binding.open:
        return None
    positional = iter(context.binding.positional)
    parts: list[Value | None] = []
    try:
        for literal, name, spec, conversion in Formatter().parse(template.value):
            parts += [Known(literal)] if literal else []
            if name is not None:
                parts.append(None if spec or conversion else context.binding.values.get(name) if name else next(positional, None))
    except ValueError:
        return None
    known = [p for p in parts if p is not None]
    return concat(known) if known and len(known) == len(parts) else None


_quiet = False
_TEXT = Spec(("path",), _same_text, recorded=_quiet)

FUNCTIONS = {
    "os.path.join": Spec((), _join, recorded=_quiet),
    **dict.fromkeys(("pathlib.Path", "pathlib.PurePath", "pathlib.PosixPath", "pathlib.PurePosixPath"), Spec((), _join, recorded=_quiet)),
    **dict.fromkeys(("builtins.str", "os.fspath", "os.path.abspath", "os.path.realpath", "os.path.normpath", "os.path.expanduser"), _TEXT),
}
PATTERNS: dict[str, Spec] = {}
METHODS: dict[tuple[str, ...], dict[str, Spec]] = {
    ("Known", "Template"): {
        "resolve absolute expanduser as_posix": Spec((), _itself, recorded=_quiet),
        "joinpath": Spec((), _join_to, recorded=_quiet),
        "rstrip": Spec(("characters",), _stripped, recorded=_quiet),
        "format": Spec((), _format, recorded=_quiet),
    },
}
