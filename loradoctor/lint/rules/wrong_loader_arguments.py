"""LD112."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Config, Model, Peft
from loradoctor.lint.flow.values import Derived, Known, Ref, Template, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_LOADER = re.compile(r"peft\.(Auto)?Peft(Mixed)?Model\w*\.from_pretrained")
_AUTO_TASKS = {
    "CausalLM": "CAUSAL_LM",
    "Seq2SeqLM": "SEQ_2_SEQ_LM",
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
    "QuestionAnswering": "QUESTION_ANS",
    "FeatureExtraction": "FEATURE_EXTRACTION",
}


@rule("LD112", Severity.ERROR, "LO11", "LO12")
def wrong_loader_arguments(module: Module) -> Iterator[Finding]:
    """A loading method gets arguments of the wrong kind.

    `PeftModel.from_pretrained` takes a loaded base model, then the adapter's path; `AutoPeftModelFor….from_pretrained` takes
    the path alone and loads the base itself, with a class that must match the adapter's task type. Anything else fails, often
    with a message that names neither: `'str' object has no attribute 'named_modules'`.

    ```python
    from peft import PeftModel

    model = PeftModel.from_pretrained("gpt2", "runs/last")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("gpt2")
    model = PeftModel.from_pretrained(base, "runs/last")
    ```
    """
    for site in module.calls("peft.*"):
        if not _LOADER.fullmatch(site.name):
            continue
        judge = _auto if site.name.startswith("peft.AutoPeft") else _wrapper
        told = next((told for a in site.arrivals if (told := judge(module, a)) is not None), None)
        if told is not None:
            message, advice, place, story, *assumed = told
            severity = Severity.WARNING if any(assumed) else None
            yield site.finding(message, help=advice, related=module.related(place, story), severity=severity)
    for site in module.calls("transformers.*"):
        written = site.argument("peft_config") if site.name.endswith(".from_pretrained") else None
        if written is not None and not site.name.split(".")[-2].endswith(("Config", "Tokenizer", "Processor")):
            yield site.finding(
                f"`peft_config` is passed to `{site.name.split('.')[-2]}.from_pretrained`",
                help="the model's constructor does not know it: `TypeError`; load the model, then call `get_peft_model(model, peft_config)`",
            )


Told = tuple[str, str, ir.Node | None, str] | tuple[str, str, ir.Node | None, str, bool]


def _wrapper(module: Module, arrival: Arrival) -> Told | None:
    model, path, name = arrival.arg("model"), arrival.arg("model_id"), "PeftModel.from_pretrained"
    if isinstance(model, (Template, Known)) and (isinstance(model, Template) or isinstance(model.value, str)):
        if path is None:
            advice = f"load the base model, then call `{name}(base, path)`, or let `AutoPeftModelForCausalLM.from_pretrained(path)` do both"
            return f"`{name}` gets a path and no base model", advice, None, ""
        if arrival.facts(path, Model) or arrival.facts(path, Peft):
            return f"`{name}` gets the base model and the path in the wrong order", "the base model comes first, then the adapter's path", None, ""
        return (
            f"`{name}` gets a string where the base model belongs",
            "it wants a loaded model: `'str' object has no attribute 'named_modules'`; load the base with `AutoModel….from_pretrained` first",
            None,
            "",
        )
    if path is None and arrival.arg("config") is None and model is not None and not arrival.visit.binding.open:
        if arrival.facts(model, Model):
            return f"`{name}` gets no adapter to load", "pass the adapter's path as the second argument", None, ""
        return None
    config = arrival.facts(path, Config)
    if config is not None:
        advice = "the second argument is the adapter's path; a new adapter goes in with `get_peft_model(model, config)`"
        return f"`{name}` gets a configuration where the adapter's path belongs", advice, config.made, "the configuration is made here"
    return _merged(module, arrival, name) or _file(module, arrival, name)


def _auto(module: Module, arrival: Arrival) -> Told | None:
    name = arrival.visit.name.removeprefix("peft.")
    path = arrival.arg("model_id")
    if arrival.facts(path, Model) or arrival.facts(path, Peft):
        return f"`{name}` gets a model", "it loads the base model itself; pass the adapter's path alone, or use `PeftModel.from_pretrained`", None, ""
    return _merged(module, arrival, name) or _other_task(module, arrival, name) or _file(module, arrival, name)


def _merged(_: Module, arrival: Arrival, name: str) -> Told | None:
    """The directory was written here or by a neighbouring script, and holds a merged model."""
    kept = arrival.kept(arrival.arg("model_id"), several=True)
    if kept is None or kept.adapter is not None or kept.merged is None or arrival.arg("subfolder") is not None:
        return None
    advice = "there is no adapter in it; load the merged model with `AutoModel….from_pretrained`"
    return f"`{name}` is given the directory of a merged model", advice, kept.merged, "merged here", kept.assumed


_FILES = {"adapter weights": "a state dict", "state dict": "a state dict", "pickle": "a pickled model"}


def _file(module: Module, arrival: Arrival, name: str) -> Told | None:
    """The path is that of a file which `torch.save` writes in a neighbouring script."""
    path = arrival.arg("model_id")
    found = None if module.writes(path) else module.elsewhere(path, several=True)
    if found is None or found.kind not in _FILES:
        return None
    advice = "it wants the directory that `save_pretrained` wrote: `Can't find 'adapter_config.json'`; save the adapter with `save_pretrained`"
    return f"`{name}` is given a file that holds {_FILES[found.kind]}", advice, found.node, "written here", found.assumed


def _other_task(module: Module, arrival: Arrival, name: str) -> Told | None:
    """The adapter was saved, here or by a neighbouring script, with another task type than the class stands for."""
    kept = arrival.kept(arrival.arg("model_id"))
    save = module.site(kept.adapter) if kept is not None else None
    if save is None or save.name != "save_pretrained":
        return None
    tasks = {_task(a) for a in save.arrivals}
    task = tasks.pop() if len(tasks) == 1 else None
    wanted = next((t for suffix, t in _AUTO_TASKS.items() if name.split(".", maxsplit=1)[0].endswith(suffix)), None)
    if not task or task == wanted or (wanted is None and not name.startswith("AutoPeftModel.")):
        return None
    right = next((f"AutoPeftModelFor{suffix}" for suffix, t in _AUTO_TASKS.items() if t == task), "PeftModel")
    message, advice = f"an adapter with task type `{task}` is loaded with `{name}`", f"it raises `ValueError`; use `{right}`"
    return message, advice, save.node, "saved here", kept is not None and kept.assumed


def _task(arrival: Arrival) -> str | None:
    receiver: Value | None = arrival.receiver
    facts = arrival.facts(receiver.source if isinstance(receiver, Derived) else receiver, Peft)
    config = arrival.facts(facts.config, Config) if facts else None
    value = config.get("task_type") if config and config.complete else None
    if isinstance(value, Known):
        return str(value.value)
    return value.name.rpartition(".")[2] if isinstance(value, Ref) and value.name.startswith("peft.TaskType.") else None
