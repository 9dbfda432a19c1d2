"""LD217."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.values import Items, Known, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
_WRAPPERS = ("torch.nn.parallel.DistributedDataParallel", "torch.distributed.fsdp*")
_PROCESSES = frozenset(
    """
    is_main_process is_local_main_process main_process_first local_main_process_first wait_for_everyone gather_for_metrics
    num_processes process_index local_process_index
    """.split()
)


@rule("LD217", Severity.ERROR, "DI1")
def device_map_with_ddp(module: Module) -> Iterator[Finding]:
    """A model spread over all devices with `device_map="auto"` is trained by one process for each device.

    `device_map="auto"` puts some layers on each GPU, for one process that drives them all. Data parallel training starts a
    process for every GPU, and each of them needs the whole model on its own. PyTorch and Accelerate refuse such a model as soon
    as there is more than one process.

    ```python
    from peft import LoraConfig, get_peft_model
    from torch.nn.parallel import DistributedDataParallel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2", device_map="auto")
    model = DistributedDataParallel(get_peft_model(base, LoraConfig(task_type="CAUSAL_LM")))
    ```
    What to write instead:
    ```python
    from accelerate import PartialState
    from peft import LoraConfig, get_peft_model
    from torch.nn.parallel import DistributedDataParallel
    from transformers import AutoModelForCausalLM

    device = PartialState().process_index
    base = AutoModelForCausalLM.from_pretrained("gpt2", device_map={"": device})
    model = DistributedDataParallel(get_peft_model(base, LoraConfig(task_type="CAUSAL_LM")))
    ```
    """
    names = list(_WRAPPERS)
    if not module.program.words.isdisjoint(_PROCESSES):
        names.append("accelerate.Accelerator.prepare")
    reported: set[int] = set()
    for site in module.calls(*names):
        found = site.sometimes(lambda a: _spread(a) is not None)
        loaded = _spread(found) if found else None
        if found is None or loaded is None or loaded.uid in reported or not site.always(lambda a: _spread(a) is not None):
            continue
        reported.add(loaded.uid)
        written = next((a for a in loaded.args if a.name == "device_map"), None)
        edit = (module.replace(written.value, '{"": PartialState().process_index}'),) if written else ()
        seen = "PartialState" in module.program.words
        yield module.finding(
            written.value if written else loaded,
            "a model with a device map over all devices is trained by several processes",
            related=module.related(site.node, "handed to data parallel training here"),
            help="each process needs the whole model on its own device; "
            'pass `device_map={"": PartialState().process_index}`, or leave it out',
            fix=Fix("put the model on the device of the process", edit, safe=False) if edit and seen else None,
        )


def _spread(arrival: Arrival) -> ir.Call | None:
    """The call that loaded the model with a device map over several devices."""
    values: tuple[Value | None, ...] = arrival.visit.binding.positional or (arrival.arg("module"),)
    for value in (v for each in values for v in (each.items if isinstance(each, Items) else (each,))):
        base = arrival.base(value)
        made = base[1].made if base else None
        site = arrival.module.sites.get(made.uid) if made else None
        if base is None or site is None or base[1].touched:
            continue
        if site.always(lambda a: isinstance(m := a.arg("device_map"), Known) and m.value in _SPREAD):
            return site.node
    return None
