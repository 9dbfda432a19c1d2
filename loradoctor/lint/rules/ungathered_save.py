"""LD220."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Peft
from loradoctor.lint.flow.values import Known, Oid, Table, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_GATHERS = frozenset(
    """
    GatheredParameters get_state_dict StateDictType FullStateDictConfig state_dict_type summon_full_params FullStateDict
    get_model_state_dict StateDictOptions save_16bit_model get_fp32_state_dict_from_zero_checkpoint _zero3_consolidated_16bit_state_dict
    full_tensor gather_full_param zero_to_fp32 maybe_zero_3 get_peft_state_maybe_zero_3
    """.split()
)


@rule("LD220", Severity.ERROR, "DI3")
def ungathered_save(module: Module) -> Iterator[Finding]:
    """An adapter is saved while its weights lie in pieces on several devices.

    Under ZeRO-3 and FSDP each process holds a slice of every weight, and outside of a forward pass the tensors of the model are
    empty. `save_pretrained` writes what it finds: tensors of shape `[0]`, or one process's slice. The file cannot be loaded.

    ```python
    import deepspeed
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    engine, *_ = deepspeed.initialize(model=model, config={"zero_optimization": {"stage": 3}})
    train(engine)
    model.save_pretrained("adapter")
    ```
    What to write instead:
    ```python
    import deepspeed
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    engine, *_ = deepspeed.initialize(model=model, config={"zero_optimization": {"stage": 3}})
    train(engine)
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        model.save_pretrained("adapter")
    ```
    """
    if not module.program.words.isdisjoint(_GATHERS):
        return
    sharded = dict(_sharded(module))

    def in_pieces(arrival: Arrival) -> bool:
        facts = arrival.facts(arrival.receiver, Peft)
        return facts is not None and facts.gutted is None and _later(arrival, sharded)

    for site in module.calls("save_pretrained"):
        if site.argument("state_dict") is not None or any(a.visit.binding.open for a in site.arrivals):
            continue
        found = site.sometimes(in_pieces)
        if found is None:
            continue
        oid = found.oid(found.receiver)
        yield site.finding(
            "an adapter is saved while its weights are sharded",
            related=module.related(sharded[oid][1] if oid is not None else None, "sharded here"),
            help="the tensors in the file are empty or slices; gather them first, "
            "or pass `state_dict=accelerator.get_state_dict(model)`",
        )


def _later(arrival: Arrival, sharded: dict[Oid, tuple[int, ir.Node]]) -> bool:
    oid = arrival.oid(arrival.receiver)
    return oid is not None and oid in sharded and sharded[oid][0] < arrival.visit.step


def _sharded(module: Module) -> Iterator[tuple[Oid, tuple[int, ir.Node]]]:
    """The models that are cut into slices, when and where."""
    for site in module.calls("deepspeed.initialize", "torch.distributed.fsdp*", "accelerate.Accelerator.prepare"):
        for a in site.arrivals:
            models: tuple[Value | None, ...] = (a.arg("model"),)
            if site.name == "deepspeed.initialize":
                config = a.arg("config") or a.arg("config_params")
                zero = config.get("zero_optimization") if isinstance(config, Table) else None
                if not (isinstance(zero, Table) and zero.get("stage") == Known(3)):
                    continue
            elif site.name.startswith("torch"):
                models = (a.arg("module"),)
            else:
                models = a.visit.binding.positional
                made = a.maker(a.receiver)
                plugin = made.maker(made.arg("deepspeed_plugin")) if made else None
                if plugin is None or plugin.arg("zero_stage") != Known(3):
                    continue
            yield from ((oid, (a.visit.step, site.node)) for m in models if (oid := a.oid(m)) is not None)
