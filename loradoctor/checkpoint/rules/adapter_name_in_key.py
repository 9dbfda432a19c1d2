"""LD603: the adapter's name was not removed from the keys."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.checkpoint.checkpoint import Checkpoint
from loradoctor.checkpoint.wording import counted, evidence, listed
from loradoctor.diagnostic import Finding, Severity
from loradoctor.rule import rule


@rule("LD603", Severity.WARNING, "K3")
def adapter_name_in_key(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The keys still hold the adapter's name: `…lora_A.default.weight`.

    `save_pretrained` removes the name, `torch.save(model.state_dict())` and its relatives do not. PEFT happens to load such a
    file when the name is `default` and the adapter is loaded under that name; older releases, `load_adapter` of transformers,
    vLLM and every other adapter name lose the weights. With a base model at hand PEFT is asked: when it loses them this is an error.

    Save with `model.save_pretrained(...)` or `get_peft_model_state_dict(model)`, or remove the component from every key.
    """
    keys = [k for k in checkpoint.keys if "adapter-name" in k.problems and k.role not in ("modules_to_save", "original_module")]
    if keys:
        names = [k.name for k in keys]
        adapters = list(dict.fromkeys(k.adapter for k in keys if k.adapter is not None))
        lost = adapters != ["default"]
        loads = checkpoint.evidence.loads if checkpoint.evidence is not None else None
        refused = loads is not None and not set(names).isdisjoint(loads.unexpected)
        consequence = (
            "PEFT will not find these weights" if lost or refused else "they load under no other adapter name, and not with every PEFT"
        )
        yield checkpoint.finding(
            f"{counted(len(names), 'key')} {'holds' if len(names) == 1 else 'hold'} the adapter's name {listed(adapters)}: {listed(names)}",
            key=names[0],
            severity=Severity.ERROR if refused else Severity.WARNING,
            help=f"{consequence}: remove it from every key, or save with `save_pretrained`",
            data=evidence("adapter-name", names, adapters=adapters),
        )
