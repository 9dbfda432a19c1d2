"""LD206."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Model, Peft
from loradoctor.lint.flow.values import NONE, Items, Known, Obj, Table, Value
from loradoctor.lint.module import Arrival, Module, Site, literal
from loradoctor.rule import rule

_HELPS = frozenset({"enable_input_require_grads", "make_inputs_require_grad", "make_inputs_require_grads"})
_ARGUMENT = 'gradient_checkpointing_kwargs={"use_reentrant": False}'


@rule("LD206", Severity.ERROR, "TR6")
def checkpointing_cuts_graph(module: Module) -> Iterator[Finding]:
    """Reentrant gradient checkpointing on a PEFT model whose inputs carry no gradient cuts the adapter off the loss.

    The embeddings of a PEFT model are frozen, so what enters the first checkpointed block requires no gradient, and reentrant
    checkpointing then records nothing. Before transformers 5 the backward pass fails, or only some layers train. transformers 5
    checkpoints without reentry, so there this is a hint for code that is to run on both.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    model.gradient_checkpointing_enable()
    Trainer(model=model).train()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    Trainer(model=model).train()
    ```
    Calling `model.enable_input_require_grads()` does the same.
    """
    if module.is_test or not module.program.words.isdisjoint(_HELPS):
        return
    severity = Severity.ERROR if module.before("transformers", "5") else Severity.INFO
    for site in module.calls("gradient_checkpointing_enable", "transformers.Trainer", "transformers.Seq2SeqTrainer"):
        found = site.sometimes(lambda a: _cut(module, a))
        target = _settings(found) if found else None
        if found is None or target is None:
            continue
        call = target.node
        plain = not any(arg.star or arg.name == "gradient_checkpointing_kwargs" for arg in call.args)
        plain = plain and (bool(call is not site.node) or not call.args) and not module.before("transformers", "4.35")
        yield module.finding(
            call,
            "gradient checkpointing is turned on for a PEFT model whose inputs carry no gradient",
            severity=severity,
            related=module.related(_wrapped_at(found), "the adapter goes in here"),
            help="with reentrant checkpointing the backward pass does not reach the adapter; "
            f"pass `{_ARGUMENT}` or call `enable_input_require_grads()`",
            fix=Fix(f"pass `{_ARGUMENT}`", (module.add_argument(call, _ARGUMENT),)) if plain else None,
        )


def _settings(arrival: Arrival) -> Site | None:
    """The call that turns checkpointing on: the method, or the arguments of the trainer."""
    if arrival.visit.name == "gradient_checkpointing_enable":
        return arrival.module.sites[arrival.visit.node.uid]
    made = arrival.maker(arrival.arg("args"))
    return arrival.module.sites[made.visit.node.uid] if made else None


def _cut(module: Module, arrival: Arrival) -> bool:
    if arrival.visit.name == "gradient_checkpointing_enable":
        if any(arg.star for arg in arrival.visit.node.args):
            return False
        model, kwargs = arrival.receiver, arrival.arg("gradient_checkpointing_kwargs")
    else:
        made = arrival.maker(arrival.arg("args"))
        if made is None or literal(made.arg("gradient_checkpointing")) is not True:
            return False
        model, kwargs = arrival.arg("model"), made.arg("gradient_checkpointing_kwargs")
    facts, base = arrival.facts(model, Peft), arrival.base(model)
    if base is None or not (kwargs in (None, NONE) or _reentrant(kwargs)):
        return False
    if facts is None:
        facts = _wrapper(arrival, base[1])
    plain = facts is not None and not (facts.prompt or facts.gutted or facts.touched or facts.trainable is False)
    whole = base[1].injected is not None and not (base[1].prepared or base[1].touched or base[1].unfrozen)
    return plain and facts is not None and whole and not _embeds(arrival, facts.config) and not _before(module, base[0])


def _wrapper(arrival: Arrival, model: Model) -> Peft | None:
    wrapper = arrival.visit.heap.get(model.wrapper) if model.wrapper is not None else None
    return wrapper if isinstance(wrapper, Peft) else None


def _reentrant(value: Value | None) -> bool:
    return isinstance(value, Table) and value.complete and literal(value.get("use_reentrant")) is not False


def _embeds(arrival: Arrival, config: Value | None) -> bool:
    """Whether the adapter may train the embeddings, so that inputs carry a gradient."""
    facts = arrival.facts(config, Config)
    if facts is None or not facts.complete:
        return False
    named = [facts.get("target_modules"), facts.get("modules_to_save")]
    words = [v for value in named for v in (value.items if isinstance(value, Items) else (value,)) if isinstance(v, Known)]
    return any(isinstance(w.value, str) and ("emb" in w.value or "wte" in w.value) for w in words)


def _before(module: Module, base: object) -> bool:
    """Whether checkpointing was on before the adapter went in: then PEFT lets the inputs carry gradients itself."""
    for site in module.calls("gradient_checkpointing_enable"):
        for a in site.arrivals:
            model = a.facts(a.receiver, Model)
            if model is not None and isinstance(a.receiver, Obj) and a.receiver.oid == base and not model.carries_adapter:
                return True
    return False


def _wrapped_at(arrival: Arrival) -> ir.Node | None:
    model = arrival.receiver if arrival.visit.name == "gradient_checkpointing_enable" else arrival.arg("model")
    base = arrival.base(model)
    return base[1].injected if base else None
