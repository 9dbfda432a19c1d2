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


def test_want_of_memory_is_no_refusal(monkeypatch):
    import peft

    from loradoctor.oracle.model.anatomy import OUT_OF_MEMORY
    from loradoctor.oracle.proof import layers

    def merge(self, **_):
        raise OUT_OF_MEMORY("CUDA out of memory")

    monkeypatch.setattr(peft.tuners.lora.Linear, "merge", merge)
    model = peft.get_peft_model(torch.nn.ModuleDict({"layer": torch.nn.Linear(4, 4)}), peft.LoraConfig(target_modules=["layer"]))
    with pytest.raises(OUT_OF_MEMORY):
        layers.examine({"layer": model.base_model.model["layer"]})


def test_every_module_is_in_the_facts_and_every_kind_in_the_card(examine, tmp_path):
    from loradoctor.report.card import card
    from loradoctor.report.palette import Palette

    report = examine(adapter(tmp_path, zoo.lora(), dtype=torch.bfloat16)).report
    (subject,) = report.subjects
    rows = subject.facts["merge"]
    assert [r["module"] for r in rows[:3]] == [f"model.layers.0.{n}" for n in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")]
    assert all(r["difference"] <= r["bound"] and 0 < r["lost"] < 0.1 and r["effect"] > 0.1 for r in rows)
    lines = card(subject, report.checks, Palette(), detailed=True)
    start = next(i for i, line in enumerate(lines) if line.strip() == "merge")
    assert [line.split()[:3] for line in lines[start + 2 : start + 5]] == [[n, "2", "bfloat16"] for n in ("q_proj", "up_proj", "v_proj")]
    assert not any(line.strip() == "merge" for line in card(subject, report.checks, Palette()))


def test_overflow_and_tied_weights_are_in_the_table(examine, tmp_path):
    from loradoctor.report.merges import merges
    from loradoctor.report.palette import Palette

    config = zoo.lora(target_modules=["q_proj", "lm_head"])
    report = examine(adapter(tmp_path, config, change=scale_b(1e6), dtype=torch.float16, tie_word_embeddings=True)).report
    lines = {line.split()[0]: line for line in merges(report.subjects[0].facts["merge"], Palette()) if line.strip()}
    assert "overflow" in lines["q_proj"]
    assert "shared with model.embed_tokens" in lines["lm_head"]


def test_the_dtype_that_would_keep_the_update_is_named(examine, tmp_path):
    result = examine(adapter(tmp_path, zoo.lora(), std=0.01, change=scale_b(0.03), dtype=torch.bfloat16))
    assert result.only().data["keeps"] == "float16"
    assert "store float16" in result.only().help
