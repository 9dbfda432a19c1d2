"""What runtimes refuse of an adapter, and what they silently get wrong: one file per runtime over common features.

Every entry was read in the runtime's source at the version that its file names; findings carry that version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loradoctor.checkpoint.checkpoint import Checkpoint
    from loradoctor.checkpoint.targets.target import Obstacle, Target
    from loradoctor.diagnostic import Finding

_MODULES: Mapping[str, str] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "tgi": "tgi",
    "lorax": "lorax",
    "llama.cpp": "llama_cpp",
    "tensorrt-llm": "tensorrt_llm",
    "mlx": "mlx",
    "ollama": "ollama",
}

NAMES = tuple(_MODULES)
"""What `--target` accepts."""


class UnknownTarget(ValueError):
    """A name that no runtime has; the text is one line for the user."""


def known(names: Iterable[str]) -> tuple[str, ...]:
    """The targets that ``names`` mean, each once (case and ``_`` do not matter). Raises :class:`UnknownTarget`."""
    found: dict[str, None] = {}
    for name in names:
        wanted = name.strip().lower().replace("_", "-")
        if wanted not in _MODULES:
            raise UnknownTarget(f"there is no target `{name}`; there are {', '.join(f'`{n}`' for n in NAMES)}")
        found[wanted] = None
    return tuple(found)


@cache
def runtime(name: str) -> Target:
    """The runtime called ``name``, as in :data:`NAMES`."""
    found: Target = import_module(f"{__name__}.{_MODULES[name]}").TARGET
    return found


def obstacles(checkpoint: Checkpoint) -> Iterator[tuple[Target, Obstacle]]:
    """What stands between an adapter and each of its targets; nothing for files that cannot be judged."""
    from loradoctor.checkpoint.targets.facts import Facts

    facts = Facts(checkpoint)
    if not facts.readable:
        return
    for name in checkpoint.targets:
        found = runtime(name)
        for obstacle in found.obstacles(facts):
            yield found, obstacle


def findings(checkpoint: Checkpoint, *, refused: bool) -> Iterator[Finding]:
    """One finding per cause and target: of what a target refuses, or of what it gets wrong."""
    from loradoctor.checkpoint.wording import evidence

    for target, obstacle in obstacles(checkpoint):
        reaction, trace = obstacle.reaction, obstacle.trace
        if reaction.refuses is not refused:
            continue
        label = f"{target.title} {target.version}"
        yield checkpoint.finding(
            f"{label} {reaction.does}: {trace.says}",
            trace.key,
            of=trace.of,
            help=f"{reaction.why}: {obstacle.way_out}",
            data=evidence(
                obstacle.cause, trace.names, target=target.name, version=target.version, source=reaction.source, way_out=obstacle.way_out
            ),
        )
