"""The Hugging Face Hub, asked only where the user permits it: file by file, at one commit, and every refusal one clause.

Standard library and huggingface_hub alone: both sides of the process boundary use it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .instead import instead

Progress = Callable[[str], None]

REFERENCE = re.compile(r"(?P<name>[\w.-]{1,96}(?:/[\w.-]{1,96})?)(?:@(?P<revision>[\w.][\w./-]{,199}))?")
"""`name` or `org/name`, with `@revision` where it is not `main`"""
FETCHING = "fetching "
"""how the progress of a download begins, which whoever keeps the time need not count"""
_PATIENCE = 20.0
"""seconds that the hub has for its first answer"""
_TICK = 1.0
"""seconds between two looks at how much has arrived"""
_ATTEMPTS = 5
"""downloads of one file before a connection that breaks is given up"""
_BROKEN = frozenset({"ProtocolError", "ChunkedEncodingError", "ReadError", "IncompleteRead", "ConnectionResetError"})
"""what httpx, requests and urllib3 raise for it"""
_SECRETS = re.compile(r"hf_\w+|(?<=://)[^/\s@]+@|\?[^\s'\"`]*|Bearer\s+\S+", re.IGNORECASE)


class Unavailable(Exception):
    """Something cannot be had from the hub; the text is one clause for the user, without tokens or signed addresses."""


def _quiet(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of models at a branch, tag or commit; ``cache`` is where its files go, None for the hub's own place."""

    name: str
    revision: str = "main"
    cache: Path | None = None
    progress: Progress = field(default=_quiet, compare=False)

    @classmethod
    def parse(cls, reference: str, progress: Progress = _quiet) -> Repository:
        """From `org/name` or `org/name@revision`. Raises :class:`Unavailable` for anything else."""
        match = REFERENCE.fullmatch(reference)
        if match is None or ".." in reference:
            raise Unavailable(f"`{reference}` is not the name of a repository")
        return cls(match["name"], match["revision"] or "main", progress=progress)

    def file(self, name: str) -> Path:
        """The file on this machine, fetched if need be; a broken download goes on where it stopped.

        Raises :class:`Unavailable`.
        """
        with self._asking(name):
            return Path(_persistently(lambda: self._download(name)))

    def _download(self, name: str) -> str:
        from huggingface_hub import hf_hub_download

        return str(hf_hub_download(self.name, name, revision=self.revision, cache_dir=self.cache))

    def listing(self) -> tuple[str, ...]:
        """The names of its files, the first question to ask: a download would try for minutes before it says that nobody answers.

        Raises :class:`Unavailable`.
        """
        with self._asking("the list of files"):
            from huggingface_hub import HfApi

            found = HfApi().model_info(self.name, revision=self.revision, timeout=_PATIENCE)
            names = (entry.rfilename for entry in found.siblings or ())
            return tuple(name for name in names if not name.startswith("/") and ".." not in name.split("/"))

    def configuration(self) -> Path:
        """The snapshot's directory with all that is needed to build the model without weights. Raises :class:`Unavailable`."""
        names = self.listing()
        if "config.json" in names:
            return self.file("config.json").parent
        if "model_index.json" in names:
            from ..model.pipeline import PARTS

            found = self.file("model_index.json")
            pinned = at(found.parent, self.progress) or self  # the branch may move while we fetch
            for part in PARTS:
                if f"{part}/config.json" in names:
                    pinned.file(f"{part}/config.json")
            return found.parent
        raise Unavailable(f"there is no `config.json` in it{instead(names)}")

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        # The library's own notices name addresses that are signed, and repeat what the refusal says.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        self.progress(f"{FETCHING}`{what}` of `{self.name}`")
        try:
            from huggingface_hub import constants

            if constants.HF_HUB_OFFLINE:
                raise Unavailable("`HF_HUB_OFFLINE` is set, which forbids what `--online` permits")
            with _watched(self, what):
                yield
        except Unavailable:
            raise
        except ImportError as error:
            raise Unavailable("it needs huggingface_hub: pip install 'loradoctor[hub]'") from error
        except Exception as error:
            raise Unavailable(_refusal(error, self, what)) from error


def at(directory: Path, progress: Progress = _quiet) -> Repository | None:
    """The repository and commit that a directory of the local cache belongs to, None for any other directory."""
    snapshot = root_of(directory)
    if snapshot is None:
        return None
    folder = snapshot.parents[1]
    return Repository(folder.name.removeprefix("models--").replace("--", "/"), snapshot.name, folder.parent, progress)


def root_of(directory: Path) -> Path | None:
    """The snapshot (`models--ORG--NAME/snapshots/COMMIT`) that ``directory`` is or lies in, None for any other directory."""
    for place in (directory, *directory.parents):
        if place.parent.name == "snapshots" and place.parents[1].name.startswith("models--"):
            return place
    return None


def located(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The request with a directory for its base: a base that is named by its id has its config fetched.

    For a merge the tokenizer and whatever else goes along is fetched too. Raises :class:`Unavailable`.
    """
    base = request.get("base")
    if not isinstance(base, str) or not request.get("online"):
        return request
    here = Path(base).is_dir()
    directory = Path(base) if here else Repository.parse(base, progress).configuration()
    if request.get("task") == "merge" and (repository := at(directory, progress)):
        # Of a base that is on this machine already the rest may be as well; then it does not matter that the hub is silent.
        with contextlib.suppress(*([Unavailable] if here else [])):
            _fetch_companions(repository)
    return {**request, "base": str(directory)}


def _fetch_companions(repository: Repository) -> None:
    from ..streaming.carry import goes_along

    for name in repository.listing():
        if name == "generation_config.json" or goes_along(name):
            repository.file(name)


@contextlib.contextmanager
def _watched(repository: Repository, what: str) -> Iterator[None]:
    """Report every second how much has arrived, as long as more does."""
    from huggingface_hub import constants

    folder = (repository.cache or Path(constants.HF_HUB_CACHE)) / f"models--{repository.name.replace('/', '--')}" / "blobs"
    done = threading.Event()

    def watch() -> None:
        before = _incomplete(folder)  # a process that was killed leaves its own
        while not done.wait(_TICK):
            arrived = _incomplete(folder)
            if arrived > before:
                repository.progress(f"{FETCHING}`{what}` of `{repository.name}`, {arrived / 1e6:,.0f} MB so far")
            before = arrived

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _incomplete(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.glob("*.incomplete"))
    except OSError:  # one was finished while we looked
        return 0


def _refusal(error: BaseException, repository: Repository, what: str) -> str:
    """What the hub or the way to it said, by the types of huggingface_hub 0.30 to 2."""
    from huggingface_hub import errors

    name = repository.name
    if isinstance(error, errors.LocalEntryNotFoundError):
        # What it is about is the error behind it; its own text is advice for programmers.
        return _refusal(error.__cause__, repository, what) if error.__cause__ else "the hub cannot be reached"
    status = getattr(getattr(error, "response", None), "status_code", None)
    table: tuple[tuple[type[BaseException], str], ...] = (
        (errors.GatedRepoError, f"`{name}` is gated: accept its terms on the hub, and log in with a token that may read it"),
        (errors.RepositoryNotFoundError, f"the hub has no `{name}`, or none that it shows to whoever asks: `hf auth login` for a private one"),
        (errors.RevisionNotFoundError, f"`{name}` has no revision `{repository.revision}`"),
        (errors.EntryNotFoundError, f"`{name}` has no file `{what}`"),
        (errors.HFValidationError, f"`{name}` is not the name of a repository"),
        (PermissionError, "the local cache cannot be written"),
    )
    for kind, reason in table:
        if isinstance(error, kind):
            return reason
    if status is not None:
        return f"the hub answered {status} when asked for `{what}` of `{name}`"
    return _trouble(error, what)


def _persistently(download: Callable[[], str]) -> str:
    """``download()``, again when the connection breaks: not every release of huggingface_hub goes on by itself."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            return download()
        except Exception as error:
            if not left or not _is_broken(error):
                raise
            time.sleep(_TICK)
    raise AssertionError  # the last attempt has returned or raised


def _is_broken(error: BaseException) -> bool:
    return any(kind.__name__ in _BROKEN for kind in type(error).__mro__)


def _trouble(error: BaseException, what: str) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"there is no room on the disk for `{what}`"
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
    if "Timeout" in kinds:
        return f"the hub did not answer in time when asked for `{what}`"
    if _is_broken(error):
        return f"the connection to the hub broke off while `{what}` was fetched; run it again"
    if "Connect" in kinds or "ProxyError" in kinds:
        return "the hub cannot be reached"
    return f"`{what}` cannot be fetched: {type(error).__name__}: {harmless(str(error))}"


def harmless(text: str) -> str:
    """The first line of a message, without what might be a token, a password or a signature."""
    for secret in (os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")):
        if secret and secret.strip():
            text = text.replace(secret.strip(), "…")
    lines = _SECRETS.sub("…", text).strip().splitlines()
    return lines[0] if lines else "no reason given"
