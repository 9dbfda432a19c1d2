"""LD219."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_KNOWS_ITS_RANK = re.compile(r"rank|main_process|process_index|process_zero|is_master|master_process|is_main|primary", re.IGNORECASE)


@rule("LD219", Severity.WARNING, "DI5")
def save_on_every_rank(module: Module) -> Iterator[Finding]:
    """Every process of a distributed run writes the same files.

    Under DDP each process holds the whole model. A save that does not ask which process it runs in is done by all of them at
    once, into one directory: files get mixed up or cut short, and a push to the hub happens once for each GPU.

    ```python
    import torch.distributed as dist
    from peft import LoraConfig, get_peft_model
    from torch.nn.parallel import DistributedDataParallel
    from transformers import AutoModelForCausalLM

    dist.init_process_group("nccl")
    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    parallel = DistributedDataParallel(model)
    train(parallel)
    model.save_pretrained("adapter")
    ```
    What to write instead:
    ```python
    import torch.distributed as dist
    from peft import LoraConfig, get_peft_model
    from torch.nn.parallel import DistributedDataParallel
    from transformers import AutoModelForCausalLM

    dist.init_process_group("nccl")
    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    parallel = DistributedDataParallel(model)
    train(parallel)
    if dist.get_rank() == 0:
        model.save_pretrained("adapter")
    ```
    """
    if any(_KNOWS_ITS_RANK.search(word) for word in module.program.words):
        return
    parallel = next(iter(module.calls("torch.nn.parallel.DistributedDataParallel")), None)
    if parallel is None:
        return

    def adapted(arrival: Arrival) -> bool:
        facts = arrival.facts(arrival.receiver, Peft)
        base = arrival.facts(arrival.receiver, Model)
        return facts is not None or (base is not None and base.merged is not None)

    for site in module.calls("save_pretrained", "push_to_hub"):
        if site.sometimes(adapted) and site.argument("is_main_process") is None:
            yield site.finding(
                "every process of a distributed run saves here",
                related=module.related(parallel.node, "the run is distributed"),
                help="all processes write the same files at once; save in one of them, under `if dist.get_rank() == 0:`",
            )
