"""Advice about changed names against what released packages have."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest

from loradoctor.lint.libraries import deprecations
from loradoctor.lint.libraries.signatures import public_name, signature

ADVICE = [(call, name) for call, names in deprecations._BY_CALL.items() for name in names]
INSTALLED = [
    "peft.LoraConfig",
    "peft.AdaLoraConfig",
    "peft.IA3Config",
    "peft.get_peft_model",
    "peft.prepare_model_for_kbit_training",
    "peft.PeftModel.set_adapter",
    "peft.PeftModel.add_adapter",
    "transformers.TrainingArguments",
    "transformers.Seq2SeqTrainingArguments",
    "transformers.Trainer",
]


@pytest.mark.parametrize(("call", "name"), ADVICE, ids=lambda v: v)
def test_advice_is_about_a_parameter_that_has_changed(call: str, name: str) -> None:
    found = signature(call)
    assert found is not None
    life = found.parameters[name]
    assert life.until or life.deprecated


@pytest.mark.parametrize(("call", "name"), ADVICE, ids=lambda v: v)
def test_what_takes_the_place_of_a_parameter_is_one(call: str, name: str) -> None:
    change = deprecations._BY_CALL[call][name]
    successor = change.new or change.value.partition("=")[0]
    if not successor:
        return
    found = signature(call)
    assert found is not None
    everywhere = dict(found.parameters)
    for base in found.bases:
        theirs = signature(base)
        assert theirs is not None
        everywhere = theirs.parameters | everywhere
    assert everywhere[successor].until is None


@pytest.mark.parametrize("name", [n for n in deprecations.FUNCTIONS if public_name(n) is not None])
def test_a_public_name_went_when_the_releases_say(name: str) -> None:
    life = public_name(name)
    assert life is not None
    assert deprecations.FUNCTIONS[name].removed == life.until


@pytest.mark.parametrize("call", INSTALLED)
def test_the_parameters_that_are_alive_are_those_of_the_newest_release(call: str) -> None:
    library, *path = call.split(".")
    found = signature(call)
    assert found is not None
    target = __import__(library)
    for name in path:
        target = getattr(target, name)
    if version(library) != NEWEST[library]:
        pytest.skip(f"{library} {NEWEST[library]} is not installed")
    taken = {p.name for p in inspect.signature(target).parameters.values() if p.kind is not p.VAR_KEYWORD} - {"self"}
    assert {name for name, life in found.parameters.items() if life.until is None} == taken


NEWEST = {"peft": "0.21.2", "transformers": "5.23.0"}
"""The last releases that were looked at."""


def test_a_name_of_another_framework_went_with_its_framework() -> None:
    change = deprecations.symbol("transformers.TFBertModel")
    assert change is not None
    assert (change.removed, change.advice) == ("5.0", "use the PyTorch class")


def test_a_name_that_has_always_been_there_has_no_change() -> None:
    assert deprecations.symbol("transformers.AutoModelForCausalLM") is None
    assert deprecations.symbol("transformers.BertTokenizerFast") is None  # served by its module, and in no list
    assert deprecations.symbol("peft.mapping.get_peft_config") is None


def test_a_field_of_the_base_with_a_default_of_its_own_is_no_news() -> None:
    for call in ("trl.SFTConfig", "trl.GRPOConfig"):
        assert not {"per_device_train_batch_size", "logging_steps", "learning_rate"} & deprecations.arguments(call).keys()
    assert deprecations.arguments("trl.SFTConfig")["warmup_ratio"].removed == "5.15"


def test_a_module_is_no_public_name() -> None:
    for name in ("trl.trainer", "trl.models", "trl.core", "peft.utils", "peft.tuners"):
        assert public_name(name) is None


def test_a_class_that_moved_is_known_by_its_own_module() -> None:
    from loradoctor.lint.changed_names import _changed

    assert _changed("trl.experimental.orpo.ORPOTrainer") is None
    assert _changed("trl.experimental.ppo.PPOTrainer") == ("trl.experimental.ppo", deprecations.FUNCTIONS["trl.experimental.ppo"])
    found = _changed("trl.trainer.ppo_trainer.PPOTrainer")
    assert found is not None
    assert (found[0], found[1].removed, found[1].since) == ("trl.PPOTrainer", "0.29", None)
