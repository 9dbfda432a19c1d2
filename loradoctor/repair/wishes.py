"""What the user permits or knows, where the files alone do not decide."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wishes:
    """``dtype`` is safetensors' name; ``adapter`` names the one to keep when a file holds several; ``alpha`` is ``lora_alpha``.

    ``outside`` is ``adapt`` or ``drop``: what becomes of tensors for modules that the config does not target.
    """

    drop_orphans: bool = False
    drop_base_weights: bool = False
    outside: str | None = None
    dtype: str | None = None
    adapter: str | None = None
    alpha: float | None = None
    initial: str | None = None
