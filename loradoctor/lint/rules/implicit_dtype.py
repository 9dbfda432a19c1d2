"""LD413."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.fitting import Fitting, fittings, listed
from loradoctor.lint.flow.values import NONE
from loradoctor.lint.module import Module
from loradoctor.rule import rule

_HALF = frozenset(
    "llama mistral mixtral qwen2 qwen3 qwen3_moe gemma gemma2 gemma3 gemma3_text phi3 falcon starcoder2 olmo2 granite smollm3 gpt_oss".split()
)
"""Architectures whose published weights are in 16 bits."""


@rule("LD413", Severity.INFO, "DP4")
def implicit_dtype(module: Module) -> Iterator[Finding]:
    """Modules are trained in full in whatever precision the base happens to be published in.

    Up to transformers 4 `from_pretrained` loaded in 32 bits where nothing else was said; since 5 it takes the checkpoint's own dtype,
    16 bits for most language models. The adapter's matrices are kept in 32 bits all the same, but copies made for
    `modules_to_save` are as their originals are: small updates to them are rounded away, and mixed precision in float16 refuses to
    train them. It is told once for a file.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("mistralai/Mistral-7B-v0.3")
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    ```
    What to write instead:
    ```python
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("mistralai/Mistral-7B-v0.3", dtype=torch.float32)
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    ```
    """
    if module.is_test or module.before("transformers", "5"):
        return
    for _, arrivals in fittings(module):
        for fitting in arrivals:
            copies = [n for n in listed(fitting.config.get("modules_to_save")) or () if n]
            load = _load(module, fitting) if copies else None
            if load is not None:
                shown = ", ".join(f"`{n}`" for n in copies[:3])
                yield module.finding(
                    load,
                    f"`{fitting.base}` is loaded in the precision of its checkpoint, and {shown} trained in it",
                    related=module.related(fitting.config.made, "these are trained in full"),
                    help="transformers 5 no longer loads in 32 bits by itself; pass `dtype=torch.float32` where modules are trained in full",
                )
                return


def _load(module: Module, fitting: Fitting) -> ir.Call | None:
    """The call that loads the base of a fitting, where it leaves the dtype open and the weights are in 16 bits."""
    base = fitting.arrival.base(fitting.arrival.arg("model"))
    if base is None or fitting.architecture is None or fitting.architecture.name not in _HALF:
        return None
    made = base[1].made
    site = module.sites.get(made.uid) if made is not None else None
    if site is None or not isinstance(made, ir.Call):
        return None
    settled = ("dtype", "torch_dtype", "quantization_config", "load_in_4bit", "load_in_8bit")
    left_open = all(a.arg(name) in (None, NONE) for a in site.arrivals for name in settled)
    return made if left_open and base[1].quantized is None else None
