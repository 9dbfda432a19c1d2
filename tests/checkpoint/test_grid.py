"""Holes in the layer x module grid, and designs that only look like holes."""

from __future__ import annotations

import pytest

from loradoctor.checkpoint.grid import holes, missing_experts


def grid(**layers: object) -> list[str]:
    return [f"model.layers.{i}.{name.replace('__', '.')}" for name, numbers in layers.items() for i in numbers]  # type: ignore[attr-defined]


def found(modules: list[str]) -> list[tuple[str, tuple[int, ...]]]:
    return [(h.template.rpartition(".")[2], h.missing) for h in holes(modules)]


def test_one_module_missing_in_one_layer() -> None:
    assert found(grid(self_attn__q_proj=range(8), self_attn__v_proj=[0, 1, 2, 4, 5, 6, 7])) == [("v_proj", (3,))]


def test_a_layer_missing_altogether() -> None:
    assert found(grid(self_attn__q_proj=[0, 1, 3], mlp__up_proj=[0, 1, 3])) == [("q_proj", (2,)), ("up_proj", (2,))]


def test_layer_zero_lost_to_an_adapter_of_that_name() -> None:
    assert found(grid(self_attn__q_proj=range(1, 8))) == [("q_proj", (0,))]


@pytest.mark.parametrize(
    "modules",
    [
        grid(self_attn__q_proj=range(8), mlp__up_proj=range(8)),
        grid(self_attn__q_proj=range(4, 8)),
        # hybrid: full attention in every fourth layer
        grid(self_attn__q_proj=[3, 7, 11], linear_attn__in_proj=[0, 1, 2, 4, 5, 6, 8, 9, 10], mlp__up_proj=range(12)),
        grid(self_attn__q_proj=[3, 7, 11], mlp__up_proj=range(12)),
        # cross-attention stands where self-attention is missing
        grid(self_attn__q_proj=[0, 1, 2, 4, 5, 6], cross_attn__q_proj=[3, 7], mlp__up_proj=range(8)),
        # the first layer is dense, the others have experts
        grid(self_attn__q_proj=range(6), mlp__gate_proj=[0], mlp__shared_experts__gate_proj=range(1, 6)),
        # an expert that no token was routed to in training, at the edge
        grid(mlp__experts__7__up_proj=[1, 2, 3], mlp__experts__8__up_proj=range(6)),
        # stages of a vision model differ in depth
        [f"stages.{s}.blocks.{b}.attn" for s, depth in enumerate((2, 2, 6, 2)) for b in range(depth)],
        ["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q"],
        # keys and values are shared by the last layers, or the last stage has no reduction
        grid(self_attn__q_proj=range(10), self_attn__k_proj=range(6), self_attn__v_proj=range(6)),
        [*grid(self_attn__q_proj=range(4)), *grid(downsample__reduction=range(3))],
        # fused experts whose dense predecessor is not targeted
        grid(self_attn__q_proj=range(6), mlp__experts=range(1, 6), mlp__gate=range(1, 6)),
        # values equal keys in every sixth layer
        grid(self_attn__q_proj=range(26), self_attn__v_proj=[i for i in range(26) if i not in (5, 11, 17, 23, 25)]),
        ["0", "2"],
        ["lin0", "net.2"],
    ],
    ids=(
        "full late hybrid sparse cross dense-first experts stages unet shared-keys reduction fused-experts equal-keys sequential small"
    ).split(),
)
def test_designs_that_are_no_holes(modules: list[str]) -> None:
    assert found(modules) == []


def test_an_expert_missing_between_others_is_named() -> None:
    present = [f"model.layers.{i}.mlp.experts.{e}.up_proj" for i in range(2) for e in range(4) if (i, e) != (0, 2)]
    assert missing_experts(present) == ("model.layers.0.mlp.experts.2.up_proj",)


def test_numbered_modules_that_are_no_experts_may_have_gaps() -> None:
    assert missing_experts(["head.mlp.0.dense", "head.mlp.2.dense", "head.mlp.3.dense"]) == ()


def test_a_few_chosen_experts_are_a_design() -> None:
    assert missing_experts([f"layers.0.experts.{e}.w1" for e in (3, 17, 40)]) == ()
