"""The merged parameters, unit by unit, are bit for bit what `merge_and_unload` gives on the whole model."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers

from loradoctor.oracle.model.prepared import prepare, start
from loradoctor.oracle.proof import merged
from tests.merge.test_methods import MERGING, build, gemma
from tests.oracle import zoo

pytestmark = pytest.mark.filterwarnings("ignore")


def prepared(adapter, base):
    request = {"adapter": str(adapter), "base": str(base)}
    return prepare(request, start(request, lambda _: None), weights=True, progress=lambda _: None)


def merged_state(adapter, base):
    ready = prepared(adapter, base)
    found = dict(merged.replaced(ready))
    for unit in merged.units(ready):
        found |= merged.merge(ready, unit)
    return found


def by_peft(adapter, base, dtype=None):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype or "auto")
    return peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()


@pytest.mark.parametrize("kind", MERGING)
def test_every_parameter_is_the_one_that_peft_merges(base, tmp_path, kind):
    adapter = build(kind, MERGING, base, tmp_path)
    before = transformers.AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = by_peft(adapter, base).state_dict()
    found = merged_state(adapter, base)
    assert all(torch.equal(found[name], after[name]) for name in found), [n for n in found if not torch.equal(found[n], after[n])]
    changed = {name for name in after if name not in before or not torch.equal(before[name], after[name])}
    assert changed <= set(found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_storage_dtypes_are_merged_as_peft_does(tmp_path, dtype):
    model = zoo.llama(tmp_path / "base", dtype=dtype)
    adapter = zoo.adapter(tmp_path / "adapter", model, zoo.lora(target_modules=["q_proj", "embed_tokens"]), base=tmp_path / "base")
    after = by_peft(adapter, tmp_path / "base").state_dict()
    found = merged_state(adapter, tmp_path / "base")
    assert found
    assert all(torch.equal(found[name], after[name]) and found[name].dtype == dtype for name in found)


def test_embeddings_that_scale_what_they_give(tmp_path):
    config = zoo.lora(target_modules=["embed_tokens", "q_proj"])
    adapter = zoo.adapter(tmp_path / "adapter", gemma(tmp_path / "base"), config, base=tmp_path / "base")
    after = by_peft(adapter, tmp_path / "base").state_dict()
    found = merged_state(adapter, tmp_path / "base")
    assert "model.embed_tokens.weight" in found
    assert all(torch.equal(found[name], after[name]) for name in found)


def test_tied_embeddings_change_together(tmp_path):
    model = zoo.llama(tmp_path / "base", tie_word_embeddings=True)
    adapter = zoo.adapter(tmp_path / "adapter", model, zoo.lora(trainable_token_indices=[1, 5]), base=tmp_path / "base")
    before = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    after = by_peft(adapter, tmp_path / "base").state_dict()
    found = merged_state(adapter, tmp_path / "base")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(found[name], after[name])
        assert not torch.equal(found[name], before[name])
