"""The PEFT methods by their `peft_type`: what their tensors are called and since when PEFT knows them.

Hand-written so that the light tier works without PEFT; a test holds the table against the installed one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Method:
    """One PEFT method; what its tensors look like is in the table of that name (see :mod:`.tables`).

    ``prefixes`` start the path component that marks a tensor as the method's; ``since`` is the first PEFT release that has it
    and ``until`` the first that has it no more; ``zero`` is the role that a fresh adapter initialises to zero, so that all zeros
    there mean "never trained"; roles that start with one of ``frozen`` are saved but not trained; ``recomputed`` says that the file
    holds something else than what was trained.
    """

    peft_type: str
    prefixes: tuple[str, ...]
    since: str
    until: str | None = None
    prompt: bool = False
    keeps_adapter_name: bool = False
    zero: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    recomputed: bool = False

    @property
    def low_rank(self) -> bool:
        """Whether it is LoRA or AdaLoRA, whose update is a product of two factors."""
        return self.peft_type in ("LORA", "ADALORA")

    def owns(self, component: str) -> bool:
        """Whether a path component of a tensor name is this method's."""
        return component.startswith(self.prefixes)


def _table(*methods: Method) -> dict[str, Method]:
    return {m.peft_type: m for m in methods}


METHODS = _table(
    Method("LORA", ("lora_",), "0.0.1", zero=("lora_B", "lora_embedding_A")),
    Method("ADALORA", ("lora_",), "0.3.0", zero=("lora_E",)),
    Method("ADAMSS", ("adamss_",), "0.19.0"),
    Method("ADAPTION_PROMPT", ("adaption_",), "0.3.0", zero=("adaption_gate",)),
    Method("BEFT", ("beft_",), "0.20.0", zero=("beft_bias",)),
    Method("BOFT", ("boft_",), "0.11.0"),
    Method("BONE", ("bone_",), "0.14.0", until="0.19.0"),
    Method("C3A", ("c3a_",), "0.16.0"),
    Method("CARTRIDGE", ("prompt_embeddings",), "0.19.0", prompt=True, recomputed=True),
    Method("CPT", ("prompt_embeddings",), "0.14.0", prompt=True),
    Method("DEFT", ("deft_",), "0.20.0"),
    Method("DELORA", ("delora_",), "0.18.0", zero=("delora_B",), frozen=("delora_w_norm",)),
    Method("FOURIERFT", ("fourierft_",), "0.12.0"),
    Method("FROD", ("frod_",), "0.20.0", frozen=("frod_V", "frod_s_")),
    Method("GLORA", ("glora_",), "0.20.0", recomputed=True),
    Method("GRALORA", ("gralora_",), "0.19.0", zero=("gralora_B",)),
    Method("HIRA", ("hira_",), "0.20.0", zero=("hira_B", "hira_embedding_A")),
    Method("HRA", ("hra_",), "0.12.0"),
    Method("IA3", ("ia3_",), "0.4.0"),
    Method("LILY", ("lily_",), "0.19.0", zero=("lily_B",), recomputed=True),
    Method("LN_TUNING", ("ln_tuning_",), "0.11.0"),
    Method("LOHA", ("hada_",), "0.6.0", zero=("hada_w2_b",)),
    Method("LOKR", ("lokr_",), "0.6.0", zero=("lokr_w1", "lokr_w1_a")),
    Method("MISS", ("miss_",), "0.17.0"),
    Method("MULTITASK_PROMPT_TUNING", ("prompt_embeddings", "prefix_task_"), "0.6.0", prompt=True),
    Method("OFT", ("oft_",), "0.7.0", zero=("oft_R", "oft_embedding_R")),
    Method("OSF", ("osf_",), "0.18.0"),
    Method("P_TUNING", ("prompt_embeddings",), "0.0.1", prompt=True, recomputed=True),
    Method("PEANUT", ("peanut_",), "0.19.0", zero=("peanut_B",)),
    Method("POLY", ("poly_",), "0.8.0", zero=("poly_lora_B",)),
    Method("PREFIX_TUNING", ("prompt_embeddings",), "0.0.1", prompt=True),
    Method("PROMPT_TUNING", ("prompt_embeddings",), "0.0.1", prompt=True),
    Method("PSOFT", ("psoft_",), "0.19.0"),
    Method("PVERA", ("pvera_",), "0.19.0", zero=("pvera_lambda_b",), frozen=("pvera_A", "pvera_B")),
    Method("RANDLORA", ("randlora_",), "0.16.0", zero=("randlora_lambda",), frozen=("randlora_A", "randlora_B")),
    Method("ROAD", ("road_",), "0.18.0"),
    Method("SHADOW", ("shadow_",), "0.21.0", keeps_adapter_name=True, zero=("shadow_up",)),
    Method("SHIRA", ("shira_",), "0.17.0", zero=("shira_weight",)),
    Method("SUPERTUNING", ("supertuning_",), "0.21.0", zero=("supertuning_values",)),
    Method("TINYLORA", ("tinylora_",), "0.19.0", frozen=("tinylora_A", "tinylora_B", "tinylora_P")),
    Method("TRAINABLE_TOKENS", ("trainable_tokens_",), "0.15.0"),
    Method("UNILORA", ("unilora_",), "0.20.0"),
    Method("VBLORA", ("vblora_",), "0.13.0"),
    Method("VERA", ("vera_",), "0.11.0", zero=("vera_lambda_b",), frozen=("vera_A", "vera_B")),
    Method("WAVEFT", ("waveft_",), "0.18.0", zero=("waveft_spectrum",)),
    Method("XLORA", ("internal_xlora_",), "0.12.0"),
)  # fmt: skip

UNKNOWN = Method("", (), "")
"""Stands in when the config names no method that any release has."""


def method_of(peft_type: str | None) -> Method:
    """The method called ``peft_type`` (exact spelling, as PEFT looks it up), or :data:`UNKNOWN`."""
    return METHODS.get(peft_type or "", UNKNOWN)


def guess(components: frozenset[str]) -> tuple[Method, ...]:
    """The methods whose tensors these path components could belong to."""
    return tuple(m for m in METHODS.values() if any(m.owns(c) for c in components))
