"""What the user knows and allows: initial adapters, dtypes, one adapter of several."""

import json
import math
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from loradoctor.checkpoint.layout import TargetError
from loradoctor.repair.run import RepairOptions, repair
from loradoctor.repair.wishes import Wishes

from .test_catalogue import FILE, load, logits, repaired

CONFIG = "adapter_config.json"


def plan_of(directory, **wishes):
    (outcome,) = repair(str(directory), RepairOptions(dry_run=True, base="none", wishes=Wishes(**wishes)))
    return outcome


@pytest.fixture
def initialised(tmp_path):
    """A function that gives an adapter before and after training, as their directories."""
    from catalogue import models
    from peft import get_peft_model

    def make(**more):
        peft = get_peft_model(models.model(), models.lora(**more))
        peft.save_pretrained(tmp_path / "before", save_embedding_layers=False)
        models.train(peft).save_pretrained(tmp_path / "after", save_embedding_layers=False)
        return tmp_path / "before", tmp_path / "after", logits(peft.eval())

    return make


@pytest.mark.parametrize(
    "more",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "pissa", "use_rslora": True},
        {"init_lora_weights": "pissa", "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 16}},
    ],
    ids=lambda more: "-".join(map(str, more.values())),
)
def test_an_adapter_that_changed_the_base_becomes_a_plain_one(more, initialised, bases, tmp_path):
    before, after, trained = initialised(**more)
    new, outcome = repaired(after, bases(), tmp_path, initial=str(before))
    config = json.loads((new / CONFIG).read_text())
    assert (config["r"], config["init_lora_weights"]) == (8, True)
    assert config["lora_alpha"] == (8 * math.sqrt(2) if more.get("use_rslora") else 16)
    torch.testing.assert_close(logits(load(new)), trained, atol=2e-5, rtol=2e-5)
    assert "bit for bit" in next(p.detail for p in outcome.proofs if p.name == "updates")


def test_the_conversion_is_pefts_own(initialised, bases, tmp_path):
    from catalogue import models
    from peft import PeftModel

    before, after, _ = initialised(init_lora_weights="pissa")
    # PEFT asks for an initial adapter that was saved as a plain one.
    config = json.loads((before / CONFIG).read_text())
    (before / CONFIG).write_text(json.dumps({**config, "init_lora_weights": True}))
    model = PeftModel.from_pretrained(models.model(), after, is_trainable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path / "pefts", path_initial_model_for_weight_conversion=str(before), save_embedding_layers=False)
    new, _ = repaired(after, bases(), tmp_path, initial=str(before))
    wanted, found = load_file(tmp_path / "pefts" / FILE), load_file(new / FILE)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_another_adapter_is_not_subtracted(initialised, good):
    _, after, _ = initialised(init_lora_weights="pissa")
    other = good("other", target_modules=["q_proj"])
    outcome = plan_of(after, initial=str(other))
    assert "other modules" in outcome.plan.refusals[0].what
    with pytest.raises(TargetError, match="not a directory"):
        plan_of(after, initial=str(after.parent / "gone"))


def test_another_scale_is_not_subtracted(initialised):
    before, after, _ = initialised(init_lora_weights="pissa")
    config = json.loads((before / CONFIG).read_text())
    (before / CONFIG).write_text(json.dumps({**config, "lora_alpha": 4}))
    assert "scaled by 1.0 there and by 2.0 here" in plan_of(after, initial=str(before)).plan.refusals[0].what


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_a_dtype_that_is_asked_for_is_rounded_as_torch_rounds(dtype, good, bases, tmp_path):
    healthy = good()
    new, outcome = repaired(healthy, bases(), tmp_path, dtype=dtype)
    wanted = {"BF16": torch.bfloat16, "F16": torch.float16}[dtype]
    found = load_file(new / FILE)
    assert all(torch.equal(t.to(wanted), found[k]) for k, t in load_file(healthy / FILE).items())
    assert "rounded" in next(p.detail for p in outcome.proofs if p.name == "updates")


def test_doubles_that_hold_more_than_single_precision_stay(good):
    directory = good()
    tensors = {k: t.double() + 1e-12 for k, t in load_file(directory / FILE).items()}
    save_file(tensors, directory / FILE)
    outcome = plan_of(directory)
    assert outcome.status == "nothing-to-do"
    assert "--dtype" in outcome.plan.notes[0]


@pytest.fixture
def two_adapters(good):
    """A raw state dict with two adapters, the second of them of zeros."""
    directory = good()
    tensors = {}
    for name, tensor in load_file(directory / FILE).items():
        head = name.removesuffix(".weight")
        tensors |= {f"{head}.poet.weight": tensor, f"{head}.cook.weight": torch.zeros_like(tensor)}
    save_file(tensors, directory / FILE)
    return directory


def test_of_several_adapters_one_must_be_named(two_adapters, good, bases, tmp_path):
    outcome = plan_of(two_adapters)
    assert "--adapter" in outcome.plan.refusals[0].evidence
    assert "no adapter `smith`" in plan_of(two_adapters, adapter="smith").plan.refusals[0].what
    new, _ = repaired(two_adapters, bases(), tmp_path, adapter="poet")
    healthy = load_file(good("healthy") / FILE)
    assert all(torch.equal(t, healthy[k]) for k, t in load_file(new / FILE).items())


def test_two_tensors_under_one_name_are_one_if_they_agree(good):
    directory = good()
    tensors = load_file(directory / FILE)
    name = min(tensors)
    save_file({**tensors, f"module.{name}": tensors[name].clone()}, directory / FILE)
    outcome = plan_of(directory)
    assert [d.name for d in outcome.plan.drops] == [f"module.{name}"]
    save_file({**tensors, f"module.{name}": tensors[name] + 1}, directory / FILE)
    assert "they differ" in plan_of(directory).plan.refusals[0].what


def test_alpha_is_set_when_it_is_known(case):
    (step,) = plan_of(case("405"), alpha=32).plan.config_steps
    assert (step.field, step.new) == ("lora_alpha", 32)
    (step,) = plan_of(case("409"), alpha=8).plan.config_steps
    assert (step.old, step.new) == (None, 8)


def test_square_halves_need_a_base_that_cannot_tell_either(case, bases):
    outcome = plan_of(case("125"))
    assert outcome.status == "nothing-to-do"


def test_swapped_square_modules_alone_are_refused(good, bases):
    from catalogue import models

    directory = good(target_modules=["q_proj"])
    models.edit(directory, lambda tensors: {k: t.T for k, t in tensors.items()})
    for base in ("none", bases()):
        (outcome,) = repair(str(directory), RepairOptions(dry_run=True, base=base))
        assert "both readings" in outcome.plan.refusals[0].what


def test_halves_are_told_apart_by_what_shares_an_input(good, tmp_path):
    from catalogue import models
    from catalogue.keys import exchanged

    for change, word in ((lambda d: models.rename(d, exchanged), "names"), (lambda d: models.edit(d, turned), "transposed")):
        directory = good(word)
        change(directory)
        outcome = plan_of(directory)
        assert outcome.status == "planned"
        assert all(word in step.why for step in outcome.plan.tensors)


def turned(tensors):
    return {k: t.T for k, t in tensors.items()}
