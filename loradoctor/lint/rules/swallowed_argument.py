"""LD109."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint.module import Module, Site
from loradoctor.rule import rule

_OF_THE_BASE = frozenset(
    "torch_dtype dtype load_in_8bit load_in_4bit quantization_config attn_implementation use_flash_attention_2 rope_scaling".split()
)
"""Arguments of `AutoModel.from_pretrained` that `PeftModel.from_pretrained` takes and drops (`**kwargs`)."""
_CLOSE = 0.85
"""How alike a name must be to count as a misspelling: `is_trainble` is at 0.96, `is_training` at 0.87."""


@rule("LD109", Severity.WARNING, "LO8")
def swallowed_argument(module: Module) -> Iterator[Finding]:
    """An argument of `PeftModel.from_pretrained` has no effect.

    The method takes any keyword and ignores those it does not know. `torch_dtype` and quantization settings belong to the
    call that loads the base model; here they change nothing. A misspelled `is_trainable` leaves the adapter frozen without a
    word.

    ```python
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last", torch_dtype=torch.float16)
    ```
    What to write instead:
    ```python
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    ```
    To have the model in half precision, pass the type where the base is loaded.
    """
    for site in module.calls("peft.PeftModel*"):
        if not site.name.endswith(".from_pretrained"):
            continue
        for arg in site.node.args:
            name = arg.name or ""
            if name in _OF_THE_BASE:
                yield module.finding(
                    arg.value,
                    f"`{name}` has no effect in `PeftModel.from_pretrained`",
                    help="it is taken and ignored: base and adapter keep their types; pass it where the base model is loaded",
                    fix=Fix(f"remove `{name}`", (module.remove_argument(site.node, arg),)),
                )
            elif _misspelled(name, site):
                yield module.finding(
                    arg.value,
                    f"`{name}` has no effect in `PeftModel.from_pretrained`: the parameter is called `is_trainable`",
                    help="the adapter stays frozen; write `is_trainable`",
                    fix=Fix("write `is_trainable`", (module.replace(arg, f"is_trainable={module.text(arg.value)}"),), safe=False),
                )


def _misspelled(name: str, site: Site) -> bool:
    if name == "is_trainable" or site.argument("is_trainable") is not None:
        return False
    return name in ("trainable", "is_train") or SequenceMatcher(None, name, "is_trainable").ratio() >= _CLOSE
