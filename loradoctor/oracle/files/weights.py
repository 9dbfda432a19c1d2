"""The base's weights: which file holds which tensor, described without reading, read in whole or by rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from . import hub
from .tensor_file import Stored, TensorFile, WeightsError, opened
from .weight_files import Layout, absent, choose, layout

__all__ = ["BaseWeights", "Stored", "WeightsError", "absent", "renamer"]


class BaseWeights:
    """The tensors of a model's directory, by the names they are stored under.

    Files are mapped, never read ahead: what a caller does not touch costs nothing. Everything that reads raises
    :class:`WeightsError`, whose text is one clause for the user; a tensor nobody stored is a KeyError.
    """

    def __init__(self, files: Mapping[str, Path], obtain: Callable[[Path], None] | None = None) -> None:
        """``files``: tensor → file. ``obtain`` is called with a file that is not there before it is opened."""
        self._files = dict(files)
        self._obtain = obtain
        self._open: dict[Path, TensorFile] = {}
        self._as_model: dict[str, str] | None = None

    @classmethod
    def at(cls, directory: Path, *, online: bool = False, progress: hub.Progress = lambda _: None) -> BaseWeights:
        """The weights in ``directory``; empty when it holds none. Raises :class:`WeightsError` for unreadable ones.

        In a snapshot of the local cache what is missing is fetched where that is permitted by ``online``: the index at once,
        a shard when the first of its tensors is asked for.
        """
        source = hub.at(directory, progress)
        obtain = _fetcher(source, directory, online=online) if source is not None else None
        found = layout(directory)
        if found == Layout() and source is not None and online and obtain is not None:
            found = _offered(source, directory, obtain)
        weights = cls(found.tensors, obtain)
        if found.single is not None:
            weights._files = dict.fromkeys(weights._file(found.single).names(), found.single)
        return weights

    def __bool__(self) -> bool:
        return bool(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __enter__(self) -> BaseWeights:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def names(self) -> tuple[str, ...]:
        """Every tensor, in the order of the index or file."""
        return tuple(self._files)

    def file_of(self, name: str) -> Path:
        """The file that ``name`` is in, which need not be on this machine yet."""
        return self._files[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together; opens every file, reads only headers."""
        return sum(self.info(name).nbytes for name in self._files)

    def info(self, name: str) -> Stored:
        """Dtype, shape and bytes of ``name``, without reading it."""
        return self._holder(name).info(name)

    def read(self, name: str) -> torch.Tensor:
        """The tensor stored under exactly ``name``; its memory is the file's, mapped copy-on-write."""
        return self._holder(name).read(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """``tensor[start:stop]`` of one with at least one dimension, mapped like :meth:`read`."""
        return self._holder(name).rows(name, start, stop)

    def obtain_all(self) -> None:
        """Have every file on this machine."""
        for path in dict.fromkeys(self._files.values()):
            if self._obtain is not None and not path.is_file():
                self._obtain(path)

    def close(self) -> None:
        """Let go of every file; tensors that were read stay valid, and a later read opens its file again."""
        self._open.clear()

    def dtypes(self, modules: Sequence[str] = ()) -> set[torch.dtype]:
        """The dtype of the first floating tensor, as a set; empty for an empty file.

        Tensors of ``modules`` of the adopted model come first: their files are needed anyway, others may not be here.
        """
        wanted = (self.stored_as((f"{module}.weight",)) for module in modules)
        for name in dict.fromkeys((*filter(None, wanted), *self._files)):
            dtype = self.info(name).dtype
            if dtype.is_floating_point:
                return {dtype}
        return set()

    def adopt(self, model: Any) -> None:
        """Learn how transformers renames this checkpoint's tensors when it loads them into ``model``."""
        rename = renamer(model)
        prefix = getattr(model, "base_model_prefix", "")
        known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._as_model = {}
        for name in self._files:
            renamed = rename(name)
            for candidate in (renamed, f"{prefix}.{renamed}", renamed.removeprefix(f"{prefix}.")):
                if candidate in known:
                    self._as_model.setdefault(candidate, name)
                    break

    def find(self, names: Iterable[str], shape: torch.Size) -> torch.Tensor | None:
        """The tensor that the model knows under one of ``names``, or None; a tensor of another shape is not it."""
        stored = self.stored_as(names)
        if stored is None or self.info(stored).shape != shape:
            return None
        return self.read(stored)

    def stored_as(self, names: Iterable[str]) -> str | None:
        """The stored name of the tensor that the adopted model knows under one of ``names``, or None."""
        table = self._as_model or {}
        for name in names:
            stored = table.get(name) or (name if name in self._files else None)
            if stored is not None:
                return stored
        return None

    def _holder(self, name: str) -> TensorFile:
        return self._file(self._files[name])

    def _file(self, path: Path) -> TensorFile:
        if path not in self._open:
            if self._obtain is not None and not path.is_file():
                self._obtain(path)
            self._open[path] = opened(path)
        return self._open[path]


def _fetcher(source: hub.Repository, directory: Path, *, online: bool) -> Callable[[Path], None]:
    root = hub.root_of(directory) or directory

    def obtain(path: Path) -> None:
        if not online:
            raise WeightsError(f"`{path.name}` is not in the local cache; `--online` fetches it")
        try:
            source.file(path.relative_to(root).as_posix())
        except hub.Unavailable as why:
            raise WeightsError(str(why)) from why

    return obtain


def _offered(source: hub.Repository, directory: Path, obtain: Callable[[Path], None]) -> Layout:
    """What the hub has for ``directory``: its index is fetched, a single file only named."""
    prefix = directory.relative_to(hub.root_of(directory) or directory).as_posix()
    try:
        names = source.listing()
    except hub.Unavailable as why:
        raise WeightsError(str(why)) from why
    inside = [name.removeprefix(f"{prefix}/") for name in names if prefix == "." or name.startswith(f"{prefix}/")]
    chosen, index = choose(inside)
    if chosen is None:
        return Layout()
    if not index:
        return Layout(single=directory / chosen)
    obtain(directory / chosen)
    return layout(directory)


def renamer(model: Any) -> Callable[[str], str]:
    """How transformers renames a tensor of older releases when it loads it into ``model``."""
    steps: list[Callable[[str], str]] = []
    for pattern, replacement in (getattr(model, "_checkpoint_conversion_mapping", None) or {}).items():
        # The patterns are written for keys, the replacements for humans: transformers strips `^` and look-aheads too.
        plain = re.sub(r"\(.*\)", "", replacement.lstrip("^"))
        steps.append(lambda key, p=pattern, r=plain: re.sub(p, r, key, count=1))  # type: ignore[misc]
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        renamings = [t for t in get_model_conversion_mapping(model) if isinstance(t, WeightRenaming)]
        steps += [lambda key, t=t: t.rename_source_key(key)[0] for t in renamings]  # type: ignore[misc]
    except (ImportError, AttributeError, TypeError):
        # transformers before 5 has neither module; its renamings are the mapping above.
        pass

    def rename(key: str) -> str:
        for step in steps:
            key = step(key)
        return key

    return rename
