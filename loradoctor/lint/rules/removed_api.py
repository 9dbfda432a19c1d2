"""LD440."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Related, Severity
from loradoctor.lint.changed_names import uses
from loradoctor.lint.module import Module
from loradoctor.rule import rule


@rule("LD440", Severity.ERROR, "QT2", "DP")
def removed_api(module: Module) -> Iterator[Finding]:
    """A name is used that the library no longer has.

    The program ends with a `TypeError`, an `ImportError` or an `AttributeError` at this line, on a machine that may have been
    waited for. What counts is the version the project pins; where it pins none, the newest. A plain rename is fixed, and so
    is `load_in_4bit=True`, which `from_pretrained` takes only inside a `BitsAndBytesConfig` since transformers 5.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("facebook/opt-350m", load_in_4bit=True)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = AutoModelForCausalLM.from_pretrained("facebook/opt-350m", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    ```
    """
    for use in uses(module, "removed"):
        change = use.change
        never = change.removed == "0.0.1"
        since = f"it never existed in {change.library}" if never else f"{change.library} {change.removed} removed it"
        yield Finding(
            use.what.format(fate="has no" if "argument" in use.what or "method" in use.what or "value" in use.what else "no longer has"),
            use.place,
            f"{since}: {change.advice}",
            related=tuple(Related("it is imported here", module.location(use.related)) for _ in [0] if use.related is not None),
            fix=use.fix,
        )
