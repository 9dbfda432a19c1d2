"""LD108."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft, Trainer
from loradoctor.lint.flow.values import Derived, text_in
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_HEADS = ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM", "LMHeadModel")


@rule("LD108", Severity.ERROR, "LO7")
def adapter_on_other_head(module: Module) -> Iterator[Finding]:
    """An adapter trained on a model without a head is loaded onto one with a head, or the other way round.

    A model with a head holds the headless one as a submodule: all names have one level more. The adapter's tensors are not
    found, its layers stay as they are drawn and the output is the base model's. PEFT warns of missing keys since 0.14 and says
    nothing before. An adapter with task type `CAUSAL_LM` on a model that cannot generate fails with an `AttributeError`.

    ```python
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModel, AutoModelForCausalLM, Trainer

    model = get_peft_model(AutoModel.from_pretrained("gpt2"), LoraConfig(task_type="FEATURE_EXTRACTION"))
    Trainer(model=model).train()
    model.save_pretrained("runs/last")

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModel, Trainer

    model = get_peft_model(AutoModel.from_pretrained("gpt2"), LoraConfig(task_type="FEATURE_EXTRACTION"))
    Trainer(model=model).train()
    model.save_pretrained("runs/last")

    base = AutoModel.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    ```
    """

    def mismatch(arrival: Arrival) -> tuple[str, str, ir.Node, bool] | None:
        base = arrival.facts(arrival.arg("model"), Model)
        kept = arrival.kept(arrival.arg("model_id")) if base is not None and not base.touched else None
        if kept is None or kept.adapter is None or base is None:
            return None
        save = module.site(kept.adapter)
        if save is None or save.name not in ("save_pretrained", "save_model") or arrival.arg("subfolder") is not None:
            return None
        trained = {_trained_on(a) for a in save.arrivals}
        before, now = trained.pop() if len(trained) == 1 else None, _kind(base)
        return (before, now, kept.adapter, kept.assumed) if before and now and before != now and "" not in (before, now) else None

    for site in module.calls("peft.PeftModel*"):
        found = site.sometimes(mismatch) if site.name.endswith(".from_pretrained") else None
        told = mismatch(found) if found else None
        if told is not None:
            before, now, save, assumed = told
            yield site.finding(
                f"an adapter trained on a model {before} is loaded onto one {now}",
                severity=Severity.WARNING if assumed else None,
                related=module.related(save, "saved here"),
                help="the names of its tensors do not match: the adapter stays empty; load the same class of model that it was trained on",
            )


def _kind(base: Model) -> str | None:
    """With or without a head, for classes where that changes the names of the modules."""
    if not base.cls.startswith("transformers.") or "t5" in text_in(base.source).lower():
        return None
    name = base.cls.rpartition(".")[2]
    if name.endswith(_HEADS):
        return "with a head"
    return "without a head" if name.endswith("Model") and not name.endswith(("EncoderModel", "HeadsModel", "PreTrainedModel")) else None


def _trained_on(arrival: Arrival) -> str | None:
    trainer = arrival.facts(arrival.receiver, Trainer)
    receiver = trainer.model if trainer else arrival.receiver
    receiver = receiver.source if isinstance(receiver, Derived) else receiver
    facts, base = arrival.facts(receiver, Peft), arrival.base(receiver)
    return _kind(base[1]) if facts and base and not (facts.touched or base[1].touched or facts.prompt) else None
