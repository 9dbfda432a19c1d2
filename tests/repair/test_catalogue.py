"""Every repairable row of the catalogue: broken, repaired, clean, the trained weights, and loaded fully by the real PEFT."""

import warnings

import pytest
import torch
from safetensors.torch import load_file

from loradoctor.checkpoint.run import CheckOptions, check
from loradoctor.diagnostic import Severity
from loradoctor.repair.run import RepairOptions, repair
from loradoctor.repair.wishes import Wishes

FILE = "adapter_model.safetensors"
HEAD = {"modules_to_save": ["lm_head"]}
USUAL = {}

SAME_TENSORS = {
    "001": USUAL, "100": USUAL, "101": USUAL, "104": USUAL, "109": USUAL, "110": USUAL, "112": USUAL, "113": USUAL,
    "114": USUAL, "120": USUAL, "121": USUAL, "123": USUAL, "124": USUAL, "209": USUAL, "210": USUAL,
    "211": {"target_modules": ["q_proj"]}, "212": USUAL, "310": USUAL, "400": USUAL,
    "401": {"rank_pattern": {"v_proj": 2}}, "406": USUAL, "407": USUAL, "408": USUAL, "412": {"use_dora": True},
    "415": {"use_dora": True}, "420": USUAL, "502": USUAL, "503": USUAL, "504": USUAL, "512": USUAL,
    "513": USUAL, "516": USUAL, "602": HEAD, "605": HEAD, "606": HEAD, "615": {"target_modules": ["q_proj", "embed_tokens"]},
    "810": USUAL, "817": USUAL, "818": USUAL, "819": USUAL, "820": USUAL, "821": USUAL,
}  # fmt: skip
"""Case → what the healthy adapter was made with, whose tensors and outputs the repaired one must have, bit for bit."""

SAME_EFFECT = ("309", "311", "515")
"""PEFT loads these as they are: the repaired one must act alike."""

OTHERS = {"103": "llama", "105": "llama", "106": "llama", "108": "llama", "416": "gpt2", "418": "gpt2", "419": "gpt2"}
"""Made with other random numbers: clean afterwards and loaded fully, with the bytes that the broken one had."""


def repaired(directory, base, tmp_path, *, proved=True, scaled=True, **wishes):
    """The outcome of a repair on ``base``, which must succeed; ``proved`` by ΔW too, where the method has low-rank halves."""
    (outcome,) = repair(str(directory), RepairOptions(output=str(tmp_path / "new"), base=base, wishes=Wishes(**wishes)))
    assert outcome.status == "repaired", (outcome.plan.refusals, outcome.proofs)
    looked = {p.name: p.status for p in outcome.proofs}
    assert (looked["bytes"], looked["check"], looked["peft"]) == ("passed", "passed", "passed")
    assert not proved or looked["updates"] == "passed"
    assert not (proved and scaled) or "alpha" in wishes or looked["scaling"] == "passed"
    return tmp_path / "new", outcome


def load(directory, on="llama"):
    """The model with the adapter, as the real PEFT loads it; a warning about missing keys fails the test."""
    from catalogue import models
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(models.model(on), directory).eval()
    assert not [w for w in heard if "missing adapter keys" in str(w.message)]
    return model


def logits(model):
    """What it answers to fixed tokens."""
    ids = torch.arange(24).reshape(2, 12) * 5 % 64
    with torch.no_grad():
        return model(ids).logits


def assert_clean(directory, base):
    for asked in ("none", base):
        found = check(str(directory), CheckOptions(base=asked)).at_least(Severity.WARNING)
        assert [d.code for d in found if not d.code.startswith(("LD7", "LD8"))] == []


@pytest.mark.parametrize("number", sorted(SAME_TENSORS))
def test_the_trained_adapter_comes_back(number, case, good, bases, tmp_path):
    new, outcome = repaired(case(number), bases(), tmp_path)
    healthy = good(**SAME_TENSORS[number])
    wanted, found = load_file(healthy / FILE), load_file(new / FILE)
    assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in wanted.items()}
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)
    assert torch.equal(logits(load(new)), logits(load(healthy)))
    assert_clean(new, bases())
    count = len(found)
    assert f"PEFT loads {count} of {count} tensors" in next(p.detail for p in outcome.proofs if p.name == "peft")


@pytest.mark.parametrize("number", SAME_EFFECT)
def test_what_peft_loads_anyway_acts_as_before(number, case, bases, tmp_path):
    broken = case(number)
    new, _ = repaired(broken, bases(), tmp_path)
    assert torch.equal(logits(load(new)), logits(load(broken)))
    assert_clean(new, bases())


@pytest.mark.parametrize("number", sorted(OTHERS))
def test_no_byte_is_lost(number, case, bases, tmp_path):
    broken, on = case(number), OTHERS[number]
    before = sorted(t.numpy().tobytes() for t in load_file(broken / FILE).values())
    new, _ = repaired(broken, bases(on), tmp_path)
    assert sorted(t.numpy().tobytes() for t in load_file(new / FILE).values()) == before
    load(new, on)
    assert_clean(new, bases(on))


def test_a_config_of_another_method_needs_the_lost_alpha(case, good, bases, tmp_path):
    broken = case("217")
    (outcome,) = repair(str(broken), RepairOptions(dry_run=True, base="none"))
    assert outcome.failed
    assert "--lora-alpha" in outcome.plan.refusals[0].evidence
    new, _ = repaired(broken, bases(), tmp_path, alpha=8)
    assert torch.equal(logits(load(new)), logits(load(good())))


@pytest.mark.parametrize("number", ["206", "213", "214"])
def test_modules_outside_the_config_are_targeted_when_told(number, case, good, bases, tmp_path):
    new, _ = repaired(case(number), bases(), tmp_path, outside="adapt")
    assert torch.equal(logits(load(new)), logits(load(good())))
    assert_clean(new, bases())


@pytest.mark.parametrize("number", ["206", "213", "214"])
def test_modules_outside_the_config_go_when_told(number, case, bases, tmp_path):
    broken = case(number)
    new, outcome = repaired(broken, bases(), tmp_path, outside="drop")
    assert torch.equal(logits(load(new)), logits(load(broken)))
    assert outcome.plan.drops
    assert_clean(new, bases())


@pytest.mark.parametrize("number", ["204", "205"])
def test_orphans_go_when_told(number, case, bases, tmp_path):
    new, outcome = repaired(case(number), bases(), tmp_path, drop_orphans=True)
    assert len(load_file(new / FILE)) == 10
    assert [d.name.split(".")[4] for d in outcome.plan.drops] == ["0"]
    assert_clean(new, bases())


@pytest.mark.parametrize("number", ["215", "216"])
def test_injected_base_weights_go_when_told(number, case, good, bases, tmp_path):
    new, _ = repaired(case(number), bases(), tmp_path, drop_base_weights=True)
    assert torch.equal(logits(load(new)), logits(load(good())))
    assert_clean(new, bases())


def test_saved_embeddings_go_when_told_and_when_they_are_the_bases_own(case, bases, tmp_path):
    broken = case("614")
    new, outcome = repaired(broken, bases(), tmp_path, drop_base_weights=True)
    assert [d.name for d in outcome.plan.drops] == ["base_model.model.model.embed_tokens.base_layer.weight"]
    assert torch.equal(logits(load(new)), logits(load(broken)))


REFUSED = {
    "111": "no tensors",
    "200": "no tensors",
    "201": "size 0",
    "122": "needs on",
    "202": "covers 1 layers",
    "203": "has 4 layers",
    "204": "one half of two",
    "205": "one half of two",
    "206": "not targeted by the config",
    "207": "needs on",
    "213": "not targeted by the config",
    "214": "not targeted by the config",
    "215": "overwrite the base",
    "216": "overwrite the base",
    "218": "normalisation",
    "312": "integers",
    "409": "not a number",
    "413": "lack DoRA's magnitudes",
    "426": "corda",
    "433": "rows",
    "500": "no `adapter_config.json`",
    "501": "not JSON",
    "507": "not a task type",
    "518": "does not know",
    "601": "no tensors of it",
    "800": "no adapter weights",
    "801": "empty",
    "802": "LFS pointer",
    "803": "LFS pointer",
    "804": "ends at byte",
    "805": "after its last tensor",
    "806": "not UTF-8",
    "807": "header is",
    "809": "unused bytes",
    "811": "takes",
    "812": "dtype",
    "814": "holds another",
    "815": "calls",
    "816": "calls",
}


NEED_THE_BASE = frozenset({"122", "202", "203", "207"})
"""Only the base shows what is missing; for the others it would change nothing."""


@pytest.mark.parametrize("number", sorted(REFUSED))
def test_where_a_guess_would_be_needed_nothing_is_written(number, case, bases, tmp_path):
    broken = case(number)
    (outcome,) = repair(str(broken), RepairOptions(output=str(tmp_path / "new"), base=bases() if number in NEED_THE_BASE else "none"))
    assert outcome.status == "refused"
    assert REFUSED[number] in outcome.plan.refusals[0].what
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith((".", "new"))) == []


@pytest.mark.parametrize("number", ["000", "102", "402", "414", "421", "432", "600", "607", "813"])
def test_what_is_right_is_left_alone(number, case, bases, tmp_path):
    base = bases("llama-tied" if number == "607" else "llama")
    (outcome,) = repair(str(case(number)), RepairOptions(output=str(tmp_path / "new"), base=base))
    assert (outcome.status, outcome.remaining, outcome.failed) == ("nothing-to-do", (), False)
    assert not (tmp_path / "new").exists()
