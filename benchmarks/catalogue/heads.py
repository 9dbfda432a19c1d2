"""Cases 600 to 615: modules saved whole, embeddings and vocabularies."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from peft import get_peft_model

from .case import case
from .models import drop, edit, lora, model, rename, save, setting, train


def head(to: Path) -> None:
    """The output layer trained whole."""
    save(to, modules_to_save=["lm_head"])


case("600_modules_to_save")(head)


@case("601_modules_to_save_tensor_missing", "error: KeyError", light="LD614")
def head_missing(to: Path) -> None:
    head(to)
    drop(to, "lm_head")


@case("602_modules_to_save_flag_lost", light="LD608", wrong=False)
def head_undeclared(to: Path) -> None:
    head(to)
    setting(to, modules_to_save=None)


@case("603_modules_to_save_unknown_module", base="LD614", light="LD614", wrong=False)
def head_unknown(to: Path) -> None:
    save(to)
    setting(to, modules_to_save=["classifier"])


@case("604_modules_to_save_suffix_greedy")
def head_by_suffix(to: Path) -> None:
    save(to, modules_to_save=["head"])


@case("605_modules_to_save_old_keys", "error: KeyError", light="LD614")
def head_old(to: Path) -> None:
    head(to)
    rename(to, lambda k: k.replace("lm_head.weight", "lm_head.modules_to_save.default.weight"))


@case("606_modules_to_save_old_keys2", "error: KeyError", light="LD614")
def head_older(to: Path) -> None:
    head(to)
    rename(to, lambda k: k.replace("lm_head.weight", "lm_head.modules_to_save.weight"))


case("607_tied_modules_to_save_embed_only", on="llama-tied")(lambda to: save(to, "llama-tied", modules_to_save=["embed_tokens"]))
case("608_tied_modules_to_save_both", on="llama-tied")(lambda to: save(to, "llama-tied", modules_to_save=["embed_tokens", "lm_head"]))
case("609_tied_target_lm_head", base="LD806", on="llama-tied")(lambda to: save(to, "llama-tied", target_modules=["q_proj", "lm_head"]))
case("610_tied_target_embed", base="LD806", on="llama-tied")(lambda to: save(to, "llama-tied", target_modules=["q_proj", "embed_tokens"]))


def resized(to: Path, *, embeddings: Any = "auto", **more: Any) -> None:
    """Six tokens added before training."""
    base = model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base.resize_token_embeddings(70)
        train(get_peft_model(base, lora(**more))).save_pretrained(to, save_embedding_layers=embeddings)


case("611_vocab_resized", "error: size mismatch", base="LD616")(lambda to: resized(to, embeddings=True))


@case("612_vocab_resized_not_saved", beyond="nothing in the directory speaks of the added tokens")
def resized_lost(to: Path) -> None:
    resized(to, embeddings=False)


case("613_vocab_resized_mts", "error: size mismatch", base="LD616")(lambda to: resized(to, modules_to_save=["embed_tokens", "lm_head"]))
case("614_embed_target_base_layer_saved", base="LD608", on="llama-other")(lambda to: save(to, target_modules=["q_proj", "embed_tokens"]))


@case("615_lora_embedding_transposed", "error: size mismatch", light="LD609")
def embedding_transposed(to: Path) -> None:
    save(to, target_modules=["q_proj", "embed_tokens"])
    edit(to, lambda tensors: {k: v.T if "embedding" in k else v for k, v in tensors.items()})
