"""What a runtime is to the rules of targets: a name, the version that was read, and a reaction to each feature of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from loradoctor.checkpoint.targets.facts import Facts

WayOut = str | Callable[[Facts], str]

MERGE = "merge the adapter into its base (`merge_and_unload`) and use the result"
CONVERT_INIT = (
    "save it again as plain LoRA with `save_pretrained(..., path_initial_model_for_weight_conversion=...)`, or merge it with PEFT"
)


@dataclass(frozen=True, slots=True)
class Trace:
    """How a feature shows: a clause for the message, and the config key or the tensors (``of="weights"``) that it shows in."""

    says: str
    key: str | None = None
    of: str = "config"
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a runtime does about a feature.

    ``does`` goes on from the runtime's name, ``why`` is what the user will see, ``source`` the file and function it was read in.
    """

    refuses: bool
    does: str
    why: str
    way_out: WayOut
    source: str


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One cause for which one runtime refuses an adapter, or gets it wrong without saying so."""

    cause: str
    trace: Trace
    reaction: Reaction
    way_out: str


@dataclass(frozen=True, slots=True)
class Target:
    """One runtime.

    ``reactions`` maps the names of :data:`~loradoctor.checkpoint.targets.features.FEATURES` to what it does about them; ``own``
    yields what depends on more than one feature, as cause, trace and reaction.
    """

    name: str
    title: str
    version: str
    reactions: Mapping[str, Reaction]
    own: tuple[Callable[[Facts], Iterable[tuple[str, Trace, Reaction]]], ...] = field(default=())
    reads_mlx: bool = False

    def obstacles(self, facts: Facts) -> Iterator[Obstacle]:
        """Everything that stands between the adapter and this runtime; nothing when the files do not tell."""
        from loradoctor.checkpoint.targets.features import FEATURES, WHOLE

        # Another format or another method is the whole story: nothing else about it would be news.
        for cause, detect in WHOLE.items():
            if cause in self.reactions and (trace := detect(facts)) is not None and not (self.reads_mlx and facts.mlx):
                yield self._obstacle(cause, trace, self.reactions[cause], facts)
                return
        if not facts.mlx:
            for name, detect in FEATURES.items():
                if name in self.reactions and (trace := detect(facts)) is not None:
                    yield self._obstacle(name, trace, self.reactions[name], facts)
        for look in self.own:
            for cause, trace, reaction in look(facts):
                yield self._obstacle(cause, trace, reaction, facts)

    def _obstacle(self, cause: str, trace: Trace, reaction: Reaction, facts: Facts) -> Obstacle:
        way_out = reaction.way_out if isinstance(reaction.way_out, str) else reaction.way_out(facts)
        return Obstacle(cause, trace, reaction, way_out)


def refuses(why: str, way_out: WayOut, source: str) -> Reaction:
    """It stops, with what ``why`` says."""
    return Reaction(refuses=True, does="refuses the adapter", why=why, way_out=way_out, source=source)


def gets_wrong(does: str, why: str, way_out: WayOut, source: str) -> Reaction:
    """It loads the adapter and computes something else than PEFT."""
    return Reaction(refuses=False, does=does, why=why, way_out=way_out, source=source)
