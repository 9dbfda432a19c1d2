"""LD218."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.flow.values import NONE, Known, Ref, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_POLICIES = ("transformer_auto_wrap_policy", "size_based_auto_wrap_policy", "always_wrap_policy")


@rule("LD218", Severity.ERROR, "DI2", "DI4")
def sharded_lora_setup(module: Module) -> Iterator[Finding]:
    """FSDP is set up in a way that an adapter or a quantized base does not survive.

    With `use_orig_params=False`, which is the default, FSDP flattens the weights of a block into one tensor, and refuses
    blocks that mix frozen and trainable weights: "Must flatten tensors with uniform requires_grad". PEFT has a policy that
    wraps the adapter's layers apart. A 4-bit base can be sharded only if its packed weights are stored in the type of the other
    weights.

    ```python
    from peft import LoraConfig, get_peft_model
    from torch.distributed.fsdp import FullyShardedDataParallel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    model = FullyShardedDataParallel(model)
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from peft.utils.other import fsdp_auto_wrap_policy
    from torch.distributed.fsdp import FullyShardedDataParallel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM"))
    model = FullyShardedDataParallel(model, auto_wrap_policy=fsdp_auto_wrap_policy(model))
    ```
    `use_orig_params=True` works as well, at the price of more memory.
    """

    def mixed(arrival: Arrival) -> Peft | None:
        facts = arrival.facts(arrival.arg("module"), Peft)
        flat = arrival.arg("use_orig_params") in (None, Known(False))  # noqa: FBT003
        if facts is None or facts.gutted or facts.touched or facts.unfrozen or facts.trainable is not True or not flat:
            return None
        return facts if _is_blind(module, arrival.arg("auto_wrap_policy")) else None

    for site in module.calls("torch.distributed.fsdp*"):
        found = site.sometimes(mixed)
        facts = mixed(found) if found else None
        if facts is None:
            continue
        yield site.finding(
            "FSDP flattens frozen and trainable weights of a PEFT model together",
            severity=Severity.ERROR if site.always(mixed) else Severity.WARNING,
            related=module.related(facts.made, "the adapter goes in here"),
            help='this fails with "Must flatten tensors with uniform requires_grad"; '
            "pass `auto_wrap_policy=fsdp_auto_wrap_policy(model)` of `peft.utils.other`, or `use_orig_params=True`",
        )
    yield from _storage(module)


def _is_blind(module: Module, policy: Value | None) -> bool:
    """Whether a wrapping policy is known not to keep the adapter's layers apart."""
    if policy in (None, NONE):
        return True
    if isinstance(policy, Ref):
        return policy.name.endswith(_POLICIES)
    made = next((a for s in module.calls("functools.partial") for a in s.arrivals if a.visit.result == policy), None)
    func = made.arg("func") if made else None
    return isinstance(func, Ref) and func.name.endswith(_POLICIES)


def _storage(module: Module) -> Iterator[Finding]:
    """4-bit weights stored in another type than the rest, under a trainer that shards fully."""
    reported: set[int] = set()
    for site in module.calls("transformers.Trainer", "trl.*"):
        for arrival in site.arrivals:
            settings = arrival.maker(arrival.arg("args"))
            sharding = settings.arg("fsdp") if settings else None
            base = arrival.base(arrival.arg("model"))
            if base is None or not (isinstance(sharding, Known) and "full_shard" in str(sharding.value)):
                continue
            wrong = _stored_apart(arrival, base[1])
            if wrong is None or wrong.visit.node.uid in reported:
                continue
            reported.add(wrong.visit.node.uid)
            yield module.finding(
                wrong.visit.node,
                "4-bit weights are sharded and not stored in the type of the other weights",
                severity=Severity.WARNING,
                related=module.related(site.node, "trained fully sharded here"),
                help="FSDP can shard the packed weights only if `bnb_4bit_quant_storage` is the `dtype` that the model is loaded in",
            )


def _stored_apart(arrival: Arrival, model: Model) -> Arrival | None:
    site = arrival.module.sites.get(model.made.uid) if model.made else None
    if model.quantized != "4-bit" or site is None:
        return None
    for loaded in site.arrivals:
        settings = loaded.maker(loaded.arg("quantization_config"))
        dtype = loaded.arg("dtype") or loaded.arg("torch_dtype")
        if settings is None:
            continue
        storage = settings.arg("bnb_4bit_quant_storage")
        apart = isinstance(storage, Ref) and isinstance(dtype, Ref) and storage != dtype
        if storage is None or apart:
            return settings
    return None
