"""Prefix algebra: pure."""

from __future__ import annotations

from loradoctor.checkpoint.fit import PrefixChange, prefix_change

P = "base_model.model."
EXPECTED = [f"{P}model.layers.{i}.self_attn.{m}.lora_{h}.weight" for i in range(12) for m in ("q_proj", "v_proj") for h in "AB"]


def change(strays, wanted=EXPECTED, shape=(4, 32)):
    return prefix_change(dict.fromkeys(strays, shape), dict.fromkeys(wanted, (4, 32)))


def test_added_component():
    strays = [k.replace("model.layers", "layers") for k in EXPECTED]
    assert change(strays) == PrefixChange("base_model.", "base_model.model.", "model.", "")


def test_removed_component():
    strays = [k.replace("model.layers", "model.language_model.layers") for k in EXPECTED]
    found = change(strays)
    assert found is not None
    assert (found.added, found.removed) == ("", "language_model.")


def test_replaced_component():
    strays = [k.replace("model.layers", "decoder.layers") for k in EXPECTED]
    found = change(strays)
    assert found is not None
    assert (found.added, found.removed) == ("model.", "decoder.")


def test_a_few_extras_may_stay_behind():
    strays = [k.replace("model.layers", "layers") for k in EXPECTED] + [f"{P}score.weight"]
    assert change(strays) is not None


def test_another_layer_number_is_not_a_prefix():
    strays = [k.replace("layers.0.", "layers.12.") for k in EXPECTED if "layers.0." in k]
    assert change(strays, [k for k in EXPECTED if "layers.0." in k]) is None


def test_two_ways_are_none():
    wanted = ["left.block.q.lora_A.weight", "right.block.q.lora_A.weight"]
    assert change(["block.q.lora_A.weight"], wanted) is None


def test_nothing_in_common():
    assert change([f"{P}transformer.h.0.attn.c_attn.lora_A.bias"]) is None
    assert change([]) is None


def test_another_shape_is_another_model():
    assert change([k.replace("model.layers", "layers") for k in EXPECTED], shape=(4, 64)) is None


def test_a_text_adapter_goes_into_the_text_part():
    text = [k.replace("model.layers", "language_model.layers") for k in EXPECTED]
    image = [k.replace("model.layers", "vision_tower.layers") for k in EXPECTED]
    found = change([k.replace("model.layers", "layers") for k in EXPECTED], [*image, *text])
    assert found is not None
    assert found.added == "language_model."


def test_the_text_part_of_a_larger_adapter():
    text = [k.replace("model.layers", "model.language_model.layers") for k in EXPECTED]
    image = [k.replace("model.layers", "model.vision_tower.encoder.layers") for k in EXPECTED]
    found = change([*image, *text])
    assert found is not None
    assert found.removed == "language_model."
