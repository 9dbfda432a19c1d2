"""The merges that go wrong, each with real files: LD801 to LD806, and what must not be mistaken for them."""

from __future__ import annotations

import pytest
import torch

from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")


def adapter(tmp_path, config, *, std=0.05, change=None, **base):
    directory = tmp_path / "base"
    model = zoo.llama(directory, **base)
    return zoo.adapter(tmp_path / "adapter", model, config, base=directory, std=std, change=change)


def scale_b(factor):
    def change(model):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data *= factor

    return change


def test_layer_replication_adds_every_copys_update(examine, tmp_path):
    result = examine(adapter(tmp_path, zoo.lora(layer_replication=[[0, 2], [1, 2]])), forward=True)
    assert result.codes == ["LD805"]
    assert result.check("forward").status == "failed"
    assert result.only().data["count"] == 6
    assert result.check("merge-equivalence").status == "failed"


def test_layer_replication_without_repetition_is_sound(examine, tmp_path):
    result = examine(adapter(tmp_path, zoo.lora(layer_replication=[[0, 1], [1, 2]])))
    assert result.codes == []
    assert result.check("merge-equivalence").status == "passed"


@pytest.mark.parametrize(("target", "other"), [("lm_head", "model.embed_tokens"), ("embed_tokens", "lm_head")])
def test_tied_target(examine, tmp_path, target, other):
    result = examine(adapter(tmp_path, zoo.lora(target_modules=["q_proj", target]), tie_word_embeddings=True), forward=True)
    assert result.codes == ["LD806"]
    assert result.check("forward").status == "failed"
    assert result.only().data["shared_with"] == [other]
    assert result.check("merge-equivalence").status == "failed"


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5]},
    ],
)
def test_tied_base_whose_matrix_is_not_merged_into(examine, tmp_path, config):
    result = examine(adapter(tmp_path, zoo.lora(**config), tie_word_embeddings=True))
    assert result.codes == []
    assert result.check("merge-equivalence").status == "passed"


@pytest.mark.parametrize(("scale", "expected"), [(1.0, []), (0.03, [("LD802", "warning")]), (0.003, [("LD802", "error")])])
def test_share_of_the_update_lost_in_bfloat16(examine, tmp_path, scale, expected):
    # Unscaled the update is 20 % of the weights; at 2 % bfloat16 starts to lose a tenth of it.
    path = adapter(tmp_path, zoo.lora(), std=0.01, change=scale_b(scale), dtype=torch.bfloat16)
    result = examine(path)
    found = [(d.code, d.severity.value) for d in result.report.diagnostics if d.code.startswith("LD8")]
    assert found == expected, result.check("merge-equivalence")
    failed = expected == [("LD802", "error")]
    assert result.check("merge-equivalence").status == ("failed" if failed else "passed")


def test_the_same_update_is_kept_in_float32(examine, tmp_path):
    assert examine(adapter(tmp_path, zoo.lora(), std=0.01, change=scale_b(0.01))).codes == []


def test_overflow_in_float16(examine, tmp_path):
    result = examine(adapter(tmp_path, zoo.lora(), change=scale_b(1e6), dtype=torch.float16))
    assert "LD803" in result.codes
    assert "LD801" not in result.codes
    assert result.check("merge-equivalence").status == "failed"


def test_the_same_update_fits_bfloat16(examine, tmp_path):
    result = examine(adapter(tmp_path, zoo.lora(), change=scale_b(1e6), dtype=torch.bfloat16))
    assert "LD803" not in result.codes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("use_dora", [False, True])
def test_ordinary_merges_in_half_precision_stay_within_rounding(examine, tmp_path, dtype, use_dora):
    result = examine(adapter(tmp_path, zoo.lora(use_dora=use_dora), dtype=dtype))
    assert result.codes == []


def test_randomised_pissa_is_not_reproducible(examine, tmp_path):
    result = examine(adapter(tmp_path, zoo.lora(init_lora_weights="pissa_niter_2")))
    assert [c for c in result.codes if c.startswith("LD801")] == ["LD801"]
    assert next(d for d in result.report.diagnostics if d.code == "LD801").data["cause"] == "not-reproducible"
    assert result.check("merge-equivalence").status == "failed"


def test_an_untrained_adapter_is_vacuous(examine, tmp_path):
    result = examine(adapter(tmp_path, zoo.lora(), change=scale_b(0)))
    assert result.codes == ["LD702"]
    assert result.check("merge-equivalence").status == "vacuous"


def test_a_merge_that_computes_something_else(examine, tmp_path, monkeypatch):
    from peft.tuners.lora.layer import Linear

    right = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: 1.01 * right(self, name))
    result = examine(adapter(tmp_path, zoo.lora()))
    assert result.codes == ["LD801"]
    assert result.only().data["cause"] == "algebra"


def test_memory_holds_one_layer_at_a_time(tmp_path, monkeypatch):
    """The base never exists as a whole: what is real at any moment is one module's weight."""
    from loradoctor.oracle import layers, units
    from loradoctor.oracle.base import is_hollow
    from loradoctor.oracle.examine import examine as run

    path = adapter(tmp_path, zoo.lora())
    real = []

    original = layers.examine

    def spy(group, bystanders=()):
        weights = [p for layer in spy.model.values() for p in units.base_parameters(layer).values()]
        real.append(sum(not is_hollow(p.data) for p in weights))
        return original(group, bystanders)

    def adapted(model, find=units.adapted_layers):
        spy.model = find(model)
        return spy.model

    monkeypatch.setattr(layers, "examine", spy)
    monkeypatch.setattr(units, "adapted_layers", adapted)
    run({"adapter": str(path), "base": str(tmp_path / "base"), "merge": True}, lambda _: None)
    assert real == [1] * 6
