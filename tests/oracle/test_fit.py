"""Prefix algebra: pure."""

from __future__ import annotations

from loradoctor.checkpoint.fit import PrefixChange, prefix_change

P = "base_model.model."
EXPECTED = [f"{P}model.layers.{i}.self_attn.{m}.lora_{h}.weight" for i in range(12) for m in ("q_proj", "v_proj") for h in "AB"]


def test_added_component():
    strays = [k.replace("model.layers", "layers") for k in EXPECTED]
    assert prefix_change(strays, EXPECTED) == PrefixChange("base_model.", "base_model.model.", "model.", "")


def test_removed_component():
    strays = [k.replace("model.layers", "model.language_model.layers") for k in EXPECTED]
    change = prefix_change(strays, EXPECTED)
    assert change is not None
    assert (change.added, change.removed) == ("", "language_model.")


def test_replaced_component():
    strays = [k.replace("model.layers", "decoder.layers") for k in EXPECTED]
    change = prefix_change(strays, EXPECTED)
    assert change is not None
    assert (change.added, change.removed) == ("model.", "decoder.")


def test_a_few_extras_may_stay_behind():
    strays = [k.replace("model.layers", "layers") for k in EXPECTED] + [f"{P}score.weight"]
    assert prefix_change(strays, EXPECTED) is not None


def test_another_layer_number_is_not_a_prefix():
    strays = [k.replace("layers.0.", "layers.12.") for k in EXPECTED if "layers.0." in k]
    assert prefix_change(strays, [k for k in EXPECTED if "layers.0." in k]) is None


def test_two_ways_are_none():
    wanted = ["left.block.q.lora_A.weight", "right.block.q.lora_A.weight"]
    assert prefix_change(["block.q.lora_A.weight"], wanted) is None


def test_nothing_in_common():
    assert prefix_change([f"{P}transformer.h.0.attn.c_attn.lora_A.bias"], EXPECTED) is None
    assert prefix_change([], EXPECTED) is None
