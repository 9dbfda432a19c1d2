"""LD224."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.flow.values import Derived, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule


@rule("LD224", Severity.WARNING, "MA6")
def set_adapter_unfreezes(module: Module) -> Iterator[Finding]:
    """`set_adapter` makes an adapter trainable that the program has frozen on purpose.

    It switches the active adapter's gradients on, whatever they were: `is_trainable=False` and a loop that clears
    `requires_grad` are undone. A frozen teacher then keeps all activations for a backward pass, and an optimizer over all
    trainable parameters changes it. PEFT 0.19 and later take `inference_mode=True`.

    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    teacher = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("gpt2"), "adapters/poet", adapter_name="poet")
    teacher.load_adapter("adapters/lawyer", adapter_name="lawyer")
    teacher.requires_grad_(False)
    teacher.set_adapter("lawyer")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    teacher = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("gpt2"), "adapters/poet", adapter_name="poet")
    teacher.load_adapter("adapters/lawyer", adapter_name="lawyer")
    teacher.requires_grad_(False)
    teacher.set_adapter("lawyer", inference_mode=True)
    ```
    Freezing after the last `set_adapter` does the same in every release.
    """
    old = module.before("peft", "0.19")

    def undone(arrival: Arrival) -> ir.Node | None:
        wrapper = _wrapper(arrival)
        facts = arrival.facts(wrapper, Peft)
        if facts is None or facts.touched or facts.gutted or facts.prompt or arrival.arg("inference_mode") is not None:
            return None
        oid = arrival.oid(wrapper)
        if any(module.happened(kind, oid) for kind in ("trained", "optimized", "unfrozen")):
            return None
        by_hand = facts.frozen is not None and not _prepared(module, facts.frozen)
        return facts.frozen if by_hand else _said_so(module, facts)

    for site in module.calls("set_adapter"):
        found = site.sometimes(undone)
        place = undone(found) if found else None
        if found is None or place is None or _frozen_again(module, found):
            continue
        plain = not old and not any(a.star for a in site.node.args)
        fix = Fix("pass `inference_mode=True`", (module.add_argument(site.node, "inference_mode=True"),), safe=False)
        yield site.finding(
            "`set_adapter` makes the frozen adapter trainable again",
            related=module.related(place, "frozen here"),
            help="it sets `requires_grad` on the active adapter's weights; "
            + ("freeze after it" if old else "pass `inference_mode=True`, or freeze after it"),
            fix=fix if plain else None,
        )


def _wrapper(arrival: Arrival) -> Value | None:
    receiver = arrival.receiver
    return receiver.source if isinstance(receiver, Derived) else receiver


def _prepared(module: Module, freezing: ir.Node) -> bool:
    """Whether it was `prepare_model_for_kbit_training` that froze it, which nobody calls for that."""
    site = module.sites.get(freezing.uid)
    return site is not None and site.name.startswith("peft.prepare_model")


def _said_so(module: Module, facts: Peft) -> ir.Node | None:
    """The call that loaded the adapter, when `is_trainable=False` is written there."""
    site = module.sites.get(facts.made.uid) if facts.made is not None else None
    written = site.argument("is_trainable") if site else None
    frozen = written is not None and isinstance(written.value, ir.Const) and written.value.value is False
    return facts.made if frozen and not facts.unfrozen else None


def _frozen_again(module: Module, setting: Arrival) -> bool:
    """Whether something that happens later sees it frozen once more."""
    oid, uid = setting.oid(_wrapper(setting)), setting.visit.node.uid
    later = (v.heap.get(oid) for v in module.trace.visits if oid is not None and v.step > setting.visit.step)
    return any(isinstance(f, Peft) and f.frozen is not None and f.frozen.uid > uid for f in later)
