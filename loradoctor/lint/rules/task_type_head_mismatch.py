"""LD401."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.fitting import base_of, listed
from loradoctor.lint.flow.facts import Config, Model
from loradoctor.lint.flow.values import NONE, Items, Known, Ref, Value
from loradoctor.lint.module import Arrival, Module
from loradoctor.rule import rule

_TASKS = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
_PROMPT = ("Prompt", "Prefix", "CPT", "Cartridge")


@rule("LD401", Severity.ERROR, "CF1")
def task_type_head_mismatch(module: Module) -> Iterator[Finding]:
    """A classification model gets an adapter whose task type leaves the new head frozen and unsaved.

    The head of a `…ForSequenceClassification` or `…ForTokenClassification` model starts random. With
    `task_type="SEQ_CLS"` or `"TOKEN_CLS"` PEFT trains it and saves it with the adapter. Without, it stays as it was drawn,
    is not saved, and the next load draws another one.

    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained("roberta-base", num_labels=3)
    model = get_peft_model(model, LoraConfig(r=8, target_modules=["query", "value"]))
    ```
    What to write instead:
    ```python
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained("roberta-base", num_labels=3)
    model = get_peft_model(model, LoraConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS"))
    ```
    Naming the head in `modules_to_save` does the same.
    """

    def mismatch(arrival: Arrival) -> tuple[Config, Model, str] | None:
        config = arrival.facts(arrival.arg("peft_config"), Config)
        base = arrival.base(arrival.arg("model"))
        if config is None or base is None or not config.complete or config.cls.partition(".")[2].startswith(_PROMPT):
            return None
        task = next((t for suffix, t in _TASKS.items() if base[1].cls.endswith(suffix)), None)
        if task is None or _saves_modules(arrival, config) or not _is_wrong(config.get("task_type"), task):
            return None
        return config, base[1], task

    reported: set[int] = set()
    for site in module.calls("peft.get_peft_model", "trl.*", "transformers.*"):
        found = site.sometimes(mismatch)
        details = mismatch(found) if found else None
        if details is None:
            continue
        config, model, task = details
        made = config.made
        if not isinstance(made, ir.Call) or made.uid in reported:
            continue
        reported.add(made.uid)
        given = config.get("task_type")
        yield module.finding(
            made,
            f"the adapter of a {'sequence' if task == 'SEQ_CLS' else 'token'} classification model has "
            + ("no task type" if given in (None, NONE) else f"task type `{_name(given)}`"),
            related=(
                *module.related(model.made, "the model with a new head is made here"),
                *module.related(site.node, "the adapter goes in here"),
            ),
            help=f'the classification head stays random and is not saved with the adapter; pass `task_type="{task}"`',
            fix=_fix(module, made, task),
        )


def _name(value: Value | None) -> str:
    """The task type a value stands for: a string or a member of `TaskType`."""
    if isinstance(value, Known) and isinstance(value.value, str):
        return value.value
    if isinstance(value, Ref) and value.name.startswith("peft.TaskType."):
        return value.name.rpartition(".")[2]
    return ""


def _is_wrong(value: Value | None, task: str) -> bool:
    return value in (None, NONE) or _name(value) not in ("", task)


def _saves_modules(arrival: Arrival, config: Config) -> bool:
    """Whether `modules_to_save` may name the head: not if the model is known and none of the names is in it."""
    modules = config.get("modules_to_save")
    if modules is None or modules in (NONE, Items("list", ())):
        return False
    kind, _ = base_of(arrival, arrival.arg("model"))
    names = listed(modules)
    return kind is None or names is None or any(n is None or kind.may_copy(n) or n in arrival.module.program.words for n in names)


def _fix(module: Module, call: ir.Call, task: str) -> Fix | None:
    title = f'set `task_type="{task}"`'
    written = next((a for a in call.args if a.name == "task_type"), None)
    if written is not None:
        return Fix(title, (module.replace(written.value, f'"{task}"'),))
    if any(a.star or a.name is None for a in call.args):
        return None
    return Fix(title, (module.add_argument(call, f'task_type="{task}"'),))
