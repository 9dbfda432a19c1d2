"""LD321."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.fitting import listed
from loradoctor.lint.flow.facts import Config, Model, Peft
from loradoctor.lint.flow.values import NONE, Derived, Known
from loradoctor.lint.libraries.hub_ids import ties_embeddings
from loradoctor.lint.module import Arrival, Module, literal
from loradoctor.rule import rule

_EMBEDDINGS = frozenset({"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings", "shared"})
_YES = Known(True)  # noqa: FBT003 -- the value, not a flag
_NO = Known(False)  # noqa: FBT003


@rule("LD321", Severity.ERROR, "MG3")
def merge_tied_weights(module: Module) -> Iterator[Finding]:
    """An adapter on the embeddings is merged into a model whose input and output embeddings are one tensor.

    Many small models tie `lm_head` to `embed_tokens`. An adapter on one of the two acts there alone; merged, its update goes into
    the shared tensor and changes both. The merged model answers differently from the trained one, in memory and after
    saving, and PEFT only warns; `ensure_weight_tying=True` does not help here. Adapters that stay apart are right.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B", revision="060db64")
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "embed_tokens"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    Trainer(model=model).train()
    model = model.merge_and_unload()
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer

    base = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B", revision="060db64")
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    Trainer(model=model).train()
    model = model.merge_and_unload()
    ```
    For new tokens `trainable_token_indices` trains their rows; loading the base with `tie_word_embeddings=False` makes two
    tensors of one.
    """
    if module.is_test:
        return
    for site in module.calls("merge_and_unload", "merge_adapter"):
        found = site.sometimes(_tied)
        first = _tied(found) if found else None
        if first is None:
            continue
        config, names, base, certain = first
        where = " and ".join(f"`{n}`" for n in names)
        yield site.finding(
            f"an adapter on {where} is merged into `{base}`, whose embeddings are tied"
            if certain
            else f"an adapter on {where} is merged, which is wrong where the base ties its embeddings",
            severity=Severity.ERROR if certain and site.always(_tied) else Severity.WARNING if certain else Severity.INFO,
            related=module.related(config.made, "the embeddings are named here"),
            help="the update goes into input and output embeddings alike, and the merged model answers differently from the trained one; keep the "
            "adapter apart, load the base with `tie_word_embeddings=False`, or train new tokens with `trainable_token_indices`",
        )


def _tied(arrival: Arrival) -> tuple[Config, list[str], str, bool] | None:
    """The configuration, the embeddings it adapts, what the base is called, and whether that is known to tie them."""
    receiver = arrival.receiver
    if isinstance(receiver, Derived) and receiver.kind == "tuner":
        receiver = receiver.source
    wrapper = arrival.facts(receiver, Peft)
    config = arrival.facts(wrapper.config, Config) if wrapper and not wrapper.touched and not wrapper.gutted else None
    base = arrival.base(receiver)
    if config is None or base is None or base[1].touched:
        return None
    names = _adapted(arrival, config)
    source = literal(base[1].source)
    tied = ties_embeddings(source) if isinstance(source, str) else None
    if not names or tied is False or _untied(arrival, base[1]):
        return None
    return config, names, str(source), bool(tied)


def _adapted(arrival: Arrival, config: Config) -> list[str]:
    """The embeddings that get an adapter which cannot be merged; whole copies of them could not before PEFT 0.18.1 either."""
    targets = [n for n in listed(config.get("target_modules")) or () if n and n.rpartition(".")[2] in _EMBEDDINGS]
    if arrival.module.before("peft", "0.18.1") and config.get("ensure_weight_tying") in (None, NONE, _NO):
        targets += [n for n in listed(config.get("modules_to_save")) or () if n and n.rpartition(".")[2] in _EMBEDDINGS]
    return list(dict.fromkeys(targets))


def _untied(arrival: Arrival, base: Model) -> bool:
    """Whether the base was loaded, or may have been, with two tensors in the place of one."""
    site = arrival.module.sites.get(base.made.uid) if base.made is not None else None
    given = site.arrivals[0].arg("tie_word_embeddings") if site else None
    return given not in (None, NONE, _YES)
