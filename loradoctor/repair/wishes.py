"""What the user permits or knows, where the files alone do not decide."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wishes:
    """``dtype`` is safetensors' name; ``adapter`` names the one to keep when a file holds several; ``alpha`` is ``lora_alpha``."""

    drop_orphans: bool = False
    drop_base_weights: bool = False
    dtype: str | None = None
    adapter: str | None = None
    alpha: float | None = None
    initial: str | None = None
