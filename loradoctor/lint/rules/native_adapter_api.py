"""LD107."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow import paths
from loradoctor.lint.flow.facts import Model, Peft
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule

_OF_PEFT = (
    "merge_and_unload", "merge_adapter", "unmerge_adapter", "add_weighted_adapter", "print_trainable_parameters",
    "get_nb_trainable_parameters",
)  # fmt: skip
"""Methods a PEFT model has and a model of transformers has not."""
_OF_TRANSFORMERS = {"disable_adapters": "with model.disable_adapter():", "enable_adapters": "leave the `with model.disable_adapter():` block"}


@rule("LD107", Severity.ERROR, "LO6")
def native_adapter_api(module: Module) -> Iterator[Finding]:
    """PEFT's methods are called on a plain model, or transformers' adapter methods on a PEFT model.

    `AutoModel….from_pretrained` on an adapter's directory, and `load_adapter` or `add_adapter` on a model of transformers,
    give a transformers model with adapter layers inside, not a `PeftModel`. It has no `merge_and_unload` and no
    `print_trainable_parameters`: the call ends in an `AttributeError`. Wrapped with `get_peft_model`, it loses the first
    adapter; wrapped with `PeftModel.from_pretrained` and merged, it can no longer be saved.

    ```python
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model.load_adapter("runs/last")
    model = model.merge_and_unload()
    print(model.generate(max_new_tokens=20))
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(model, "runs/last")
    model = model.merge_and_unload()
    print(model.generate(max_new_tokens=20))
    ```
    """
    yield from _peft_methods(module)
    for site in module.calls(*_OF_TRANSFORMERS):
        found = site.sometimes(lambda a: (f := a.facts(a.receiver, Peft)) and not (f.prompt or f.touched or f.gutted) and not _native(a))
        if found is not None:
            yield site.finding(
                f"`{site.name}` of transformers is called on a PEFT model",
                help=f"it looks for adapters that transformers loaded and raises `ValueError`; write `{_OF_TRANSFORMERS[site.name]}`",
            )
    yield from _wrapped_again(module)


def _peft_methods(module: Module) -> Iterator[Finding]:
    def plain(arrival: Arrival) -> Model | None:
        facts = arrival.facts(arrival.receiver, Model)
        if facts is None or facts.made is None or facts.touched or not facts.cls.startswith("transformers."):
            return None
        return None if _in_place(arrival, facts) or "Adapter" in facts.cls else facts

    for site in module.calls(*_OF_PEFT):
        found = site.sometimes(plain)
        facts = plain(found) if found else None
        if facts is None or any("hasattr" in module.text(condition.test) for condition in module.around(site.node)):
            continue
        merged = facts.merged is not None
        how = "has been merged, it is no PEFT model any more" if merged else "is no PEFT model"
        yield site.finding(
            f"`{site.name}` is called on a model that {how}",
            related=module.related(facts.merged or facts.native or facts.injected or facts.made, _story(facts)),
            help="it has no such method: `AttributeError`; "
            + ("leave the call out" if merged else "load the adapter with `PeftModel.from_pretrained` or use what `get_peft_model` returns"),
        )


def _story(facts: Model) -> str:
    if facts.merged:
        return "merged here"
    if facts.native:
        return "transformers puts the adapter in here"
    return "the wrapper is returned here" if facts.injected else "loaded here"


def _in_place(arrival: Arrival, facts: Model) -> bool:
    """Whether the wrapped base is trained under its own name: that is a finding of its own."""
    return facts.injected is not None and bool(arrival.module.happened("trained", arrival.oid(arrival.receiver)))


def _native(arrival: Arrival) -> bool:
    base = arrival.base(arrival.receiver)
    return base is None or base[1].native is not None or base[1].touched is not None


def _wrapped_again(module: Module) -> Iterator[Finding]:
    """A base that `from_pretrained` took out of an adapter's directory, adapter included, is wrapped."""

    def carried(arrival: Arrival) -> tuple[Model, Site | None] | None:
        facts = arrival.facts(arrival.arg("model"), Model)
        if facts is None or facts.source is None or facts.touched or facts.merged or not facts.cls.startswith("transformers."):
            return None
        if arrival.visit.name.endswith("from_pretrained"):
            same = paths.same(facts.source, arrival.arg("model_id")) and arrival.arg("subfolder") is None
            return (facts, None) if same and _merged_and_saved(arrival) else None
        kept = arrival.kept(facts.source)
        saved_by = module.site(kept.adapter) if kept is not None and not kept.merged and not kept.assumed else None
        return (facts, saved_by) if saved_by is not None and saved_by.name in ("save_pretrained", "save_model") else None

    for site in module.calls("peft.PeftModel*", "peft.get_peft_model"):
        found = site.sometimes(carried)
        told = carried(found) if found else None
        if told is None:
            continue
        facts, saved_by = told
        loads = site.name.endswith("from_pretrained")
        yield site.finding(
            "a model that was loaded from an adapter's directory, adapter included, is wrapped",
            related=(
                *module.related(facts.made, "transformers finds the adapter here and puts it in"),
                *module.related(saved_by.node if saved_by else None, "the adapter is saved here"),
            ),
            help=(
                "transformers takes the merged model for one with an adapter, and saving it raises `UnboundLocalError`"
                if loads
                else "the second wrapping loses the first adapter"
            )
            + "; load the base model from its own directory",
        )


def _merged_and_saved(loading: Arrival) -> bool:
    """Whether the model is merged and saved later: until then, loading the adapter twice does no harm."""
    oid = loading.oid(loading.arg("model"))
    saves = (a for site in loading.module.calls("save_pretrained", "push_to_hub") for a in site.arrivals)
    return any(a.oid(a.receiver) == oid and (f := a.facts(a.receiver, Model)) is not None and f.merged is not None for a in saves)
