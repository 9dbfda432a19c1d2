"""LD222."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Peft, Trainer
from loradoctor.lint.flow.values import NONE, Known, Oid, Value
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule

_EVALUATING = frozenset({"for_inference", "pipeline", "eval_strategy", "evaluation_strategy", "do_eval", "load_best_model_at_end"})


@rule("LD222", Severity.WARNING, "TR10")
def dropout_at_inference(module: Module) -> Iterator[Finding]:
    """Text is generated right after training, with the adapter's dropout still switched on.

    Training leaves a model in training mode. `generate` does not change that, so a `lora_dropout` above zero goes on dropping
    inputs: greedy decoding gives another answer each time, and all of them are worse than the model's.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.05))
    Trainer(model=model).train()
    print(model.generate(**prompt))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.05))
    Trainer(model=model).train()
    model.eval()
    print(model.generate(**prompt))
    ```
    """
    if module.is_test:
        return
    reported: set[Oid] = set()
    for site in module.calls("generate"):
        found = site.sometimes(lambda a: _training(module, a) is not None)
        trained = _training(module, found) if found else None
        wrapper = _wrapper(found) if found else None
        if found is None or trained is None or wrapper is None or wrapper[0] in reported:
            continue
        reported.add(wrapper[0])
        known = _dropout(found, wrapper[1])
        yield site.finding(
            "text is generated with the model still in training mode",
            severity=Severity.WARNING if known and site.always(lambda a: _training(module, a) is not None) else Severity.INFO,
            related=module.related(trained, "training mode since here"),
            help="dropout in the adapter makes the answers random and worse; call `model.eval()` first",
            fix=_fix(module, site),
        )


def _wrapper(arrival: Arrival) -> tuple[Oid, Peft] | None:
    """The PEFT model that generates: the receiver, or what was put around it in place."""
    oid = arrival.oid(arrival.receiver)
    facts = arrival.facts(arrival.receiver, Peft)
    if facts is None:
        base = arrival.base(arrival.receiver)
        oid = base[1].wrapper if base and base[1].carries_adapter else None
        found = arrival.visit.heap.get(oid) if oid is not None else None
        facts = found if isinstance(found, Peft) else None
    return (oid, facts) if facts is not None and oid is not None else None


def _training(module: Module, arrival: Arrival) -> ir.Node | None:
    """Where the generating model was last put into training mode, if nothing has ended that since."""
    wrapper = _wrapper(arrival)
    if wrapper is None:
        return None
    oid, facts = wrapper
    if facts.gutted or facts.touched or facts.prompt or _dropout(arrival, facts) is False:
        return None
    mine = {oid, facts.base} | {o for o, f in arrival.visit.heap.items() if isinstance(f, Peft) and f.base == facts.base}
    last: tuple[int, ir.Node | None] = (-1, None)
    for site in module.calls("train", "eval", "evaluate", "predict", "load_adapter", "peft.PeftModel*"):
        loads = site.name.endswith(("_adapter", ".from_pretrained"))  # which ends in `eval()`, unless to train on
        for a in site.arrivals:
            if a.visit.step >= arrival.visit.step or a.visit.step <= last[0]:
                continue
            trainer = a.facts(a.receiver, Trainer)
            model = a.arg("model") if site.name.endswith(".from_pretrained") else trainer.model if trainer else a.receiver
            if a.oid(model) not in mine or (loads and a.arg("is_trainable") not in (None, Known(False))):  # noqa: FBT003
                continue
            starts = site.name == "train" and not (trainer and _evaluates(a)) and not _is_off(a)
            last = (a.visit.step, site.node if starts else None)
    return last[1]


def _is_off(arrival: Arrival) -> bool:
    positional = arrival.visit.binding.positional
    return arrival.arg("mode") == Known(False) or positional[:1] == (Known(False),)  # noqa: FBT003


def _evaluates(arrival: Arrival) -> bool:
    """Whether training may end with an evaluation, which leaves the model in evaluation mode."""
    made = arrival.maker(arrival.receiver)
    if made is None or made.arg("eval_dataset") in (None, NONE):
        return made is None
    settings = made.maker(made.arg("args"))
    if settings is None:
        return True
    return any(settings.arg(n) not in (None, NONE, Known("no"), Known(False)) for n in _EVALUATING)  # noqa: FBT003


def _dropout(arrival: Arrival, facts: Peft) -> bool | None:
    """Whether the adapter drops inputs; None where that is not known."""
    config = arrival.facts(facts.config, Config)
    if config is None or config.loaded_from is not None:
        return None if config is not None else False
    value: Value | None = config.get("lora_dropout")
    if value is None:
        return False if config.complete else None
    return bool(value.value) if isinstance(value, Known) else None


def _fix(module: Module, site: Site) -> Fix | None:
    """Put `eval()` before the statement that is the call."""
    name, statement = site.receiver_name, module.statement(site.node)
    if name is None or statement is None:
        return None
    return Fix("call `eval()` first", (module.precede(statement, f"{name}.eval()"),), safe=False)
