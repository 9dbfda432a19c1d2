"""One forward pass of the whole model: base, adapter, merged. Informational: it proves less than the layers do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TOKENS = 16


def compare(
    reference: str, class_name: str, directory: str, config: Any, *, online: bool, num_labels: int | None
) -> dict[str, float | None]:
    """Largest absolute differences of the first output in float32: ``effect`` of the adapter, ``difference`` after merging.

    ``difference`` is None for prompt learning, which merges nothing.
    Whatever transformers or PEFT raise is passed on; ValueError for models of images or sound.
    """
    import peft
    import transformers

    keywords: dict[str, Any] = {"local_files_only": not online, "trust_remote_code": False, "attn_implementation": "eager"}
    if num_labels:
        keywords["num_labels"] = num_labels
    precision = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    source = str(Path(reference)) if Path(reference).is_dir() else reference
    model = getattr(transformers, class_name).from_pretrained(source, **keywords, **{precision: torch.float32}).eval()
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
    if vocabulary is None or model.main_input_name != "input_ids":
        raise ValueError("only models that read token ids are run as a whole")
    ids = torch.randint(0, vocabulary, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    trained = _trained_tokens(config)[:TOKENS]
    ids[0, : len(trained)] = torch.tensor(trained, dtype=ids.dtype)
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
    with torch.no_grad():
        base = model(**inputs)[0]
        adapted_model = peft.PeftModel.from_pretrained(model, directory, config=config, torch_device="cpu").eval()
        adapted = adapted_model(**inputs)[0]
        merged = None if config.is_prompt_learning else adapted_model.merge_and_unload()(**inputs)[0]
    # Virtual tokens come first and have outputs of their own: the tokens that both runs share are at the end.
    effect = float((adapted[:, -TOKENS:] - base[:, -TOKENS:]).abs().max())
    return {"difference": None if merged is None else float((merged - adapted).abs().max()), "effect": effect}


def _trained_tokens(config: Any) -> list[int]:
    # An adapter of a few tokens shows only where they occur.
    indices = getattr(config, "token_indices", None) or getattr(config, "trainable_token_indices", None) or []
    groups = indices.values() if isinstance(indices, dict) else [indices]
    return [index for group in groups for index in group]
