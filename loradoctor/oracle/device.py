"""Where the merges are computed: the processor, or an accelerator that torch sees."""

from __future__ import annotations

import torch

CPU = torch.device("cpu")


class NoDevice(Exception):
    """The device that was asked for is not here; the text is one clause for the user."""


def chosen(asked: object) -> torch.device:
    """The device that ``cpu``, ``cuda`` (or ``cuda:1``) or ``auto`` means; ``auto`` is CUDA where torch sees it.

    Nothing asked for is the CPU. Raises :class:`NoDevice`.
    """
    if asked in (None, "", "cpu"):
        return CPU
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if here else CPU
    try:
        device = torch.device(str(asked))
    except RuntimeError as error:
        raise NoDevice(f"`{asked}` is no device") from error
    if device.type != "cuda" or not here:
        raise NoDevice("torch sees no CUDA device" if device.type == "cuda" else f"merges are not computed on `{asked}`")
    if (device.index or 0) >= here:
        raise NoDevice(f"torch sees {here} CUDA devices, and `{asked}` is none of them")
    return device
