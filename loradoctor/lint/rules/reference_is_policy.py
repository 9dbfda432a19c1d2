"""LD210."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.flow.values import NONE, Known, Value
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule

_TRAINERS = tuple(f"trl.{name}Trainer" for name in ("DPO", "KTO", "BCO", "OnlineDPO", "NashMD", "XPO", "PPO"))


@rule("LD210", Severity.ERROR, "TR13")
def reference_is_policy(module: Module) -> Iterator[Finding]:
    """A preference trainer's reference model is the model that it trains, or a needless second copy of it.

    The loss compares the policy with a reference that stands still. A reference that is the same object, or the base that the
    adapter was put into in place, moves with the policy: current TRL refuses the same object, and the base in other clothes
    goes through with a loss that means nothing. With a `peft_config` no reference is needed, for the adapter is switched off
    to get it: a second copy only costs memory, and the DPO trainer before TRL 0.28 refuses it.

    ```python
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    pairs = load_dataset("trl-lib/ultrafeedback_binarized", split="train")
    trainer = DPOTrainer(model, ref_model=model, args=DPOConfig("runs"), train_dataset=pairs, peft_config=LoraConfig())
    trainer.train()
    ```
    What to write instead:
    ```python
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    pairs = load_dataset("trl-lib/ultrafeedback_binarized", split="train")
    trainer = DPOTrainer(model, args=DPOConfig("runs"), train_dataset=pairs, peft_config=LoraConfig())
    trainer.train()
    ```
    """
    for site in module.calls(*_TRAINERS):
        if module.is_test:
            return
        same = site.sometimes(_is_same)
        if same is not None:
            yield site.finding(
                "the reference model is the model that is trained",
                help="the loss compares the policy with itself; leave `ref_model` out: "
                "the trainer makes its reference, and with an adapter switches it off",
                fix=_fix(module, site),
            )
            continue
        copy = site.sometimes(_is_copy)
        if copy is None or _switched_on(copy, "force_use_ref_model"):
            continue
        refused = site.name == "trl.DPOTrainer" and module.before("trl", "0.28")
        yield site.finding(
            "a reference model is passed along with a `peft_config`",
            severity=Severity.ERROR if refused else Severity.WARNING,
            related=module.related(_made(copy, copy.arg("ref_model")), "the same weights are loaded a second time here"),
            help="TRL before 0.28 refuses both together; leave `ref_model` out"
            if refused
            else "switching the adapter off gives the same reference without a second model in memory; leave `ref_model` out",
            fix=_fix(module, site),
        )


def _switched_on(arrival: Arrival, name: str) -> bool:
    """Whether a setting of the trainer's arguments is switched on; before TRL 0.13 the trainer took it itself."""
    if arrival.arg(name) not in (None, Known(False)):  # noqa: FBT003
        return True
    settings = arrival.maker(arrival.arg("args"))
    return settings is not None and settings.arg(name) not in (None, Known(False))  # noqa: FBT003


def _is_same(arrival: Arrival) -> bool:
    model, reference = arrival.arg("model"), arrival.arg("ref_model")
    one, other = arrival.oid(model), arrival.oid(reference)
    if other is None or reference == NONE:
        return False
    policy = arrival.facts(model, Peft)
    if policy is not None and (policy.prompt or policy.gutted):
        return False
    if one == other:
        return True
    base = arrival.base(model)
    return policy is not None and base is not None and base[0] == other and base[1].carries_adapter


def _is_copy(arrival: Arrival) -> bool:
    """Whether the reference is loaded from where the policy is, and a new adapter is put into the policy."""
    config = arrival.arg("peft_config")
    model, reference = arrival.facts(arrival.arg("model"), Model), arrival.facts(arrival.arg("ref_model"), Model)
    if config in (None, NONE) or arrival.oid(config) is None or model is None or reference is None:
        return False
    clean = not (reference.merged or reference.touched or reference.carries_adapter or model.merged or model.touched)
    return clean and model.source is not None and model.source == reference.source


def _made(arrival: Arrival, value: Value | None) -> ir.Node | None:
    facts = arrival.facts(value, Model)
    return facts.made if facts else None


def _fix(module: Module, site: Site) -> Fix | None:
    written = site.argument("ref_model")
    if written is None or written.name != "ref_model":
        return None
    return Fix("leave `ref_model` out", (module.remove_argument(site.node, written),), safe=False)
