"""What the tests of all conversions share: small models, a conversion carried out, PEFT's view of the result."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint.checkpoint import read
from loradoctor.checkpoint.convert import convert
from loradoctor.checkpoint.layout import places
from loradoctor.repair.plan import Plan
from loradoctor.repair.write import write

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")


def plans(source: Path, base: Path | None = None) -> Mapping[str, Plan]:
    (place,) = places([str(source)])
    return convert(read(place.path, place.directory, place.weights), base)


def converted(source: Path, to: Path, base: Path | None = None) -> dict[str, Path]:
    """The directories of the result by component; no plan may be refused."""
    written = {}
    for component, plan in plans(source, base).items():
        assert not plan.refusals, plan.refusals
        written[component] = to / component
        written[component].mkdir(parents=True)
        write(plan, written[component])
    return written


def refused(source: Path, base: Path | None = None) -> str:
    found = [r.what for plan in plans(source, base).values() for r in plan.refusals]
    assert found
    return " / ".join(found)


def loaded(model: Any, adapter: Path) -> Any:
    """A copy of the model with the adapter, loaded by PEFT without a complaint about any tensor."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*adapter keys.*")
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), str(adapter)).eval()


def with_updates(model: Any, updates: Mapping[str, Any]) -> Any:
    """A copy of the model with ``updates`` added to the weights of its modules: what the source's own tool computes."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for module, update in updates.items():
            weight = changed.get_submodule(module).weight
            weight += update.reshape(weight.shape)
    return changed.eval()


def output(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.arange(12).reshape(2, 6)).logits


def assert_same(one: Any, other: Any, plain: Any) -> None:
    """Equal up to the rounding of double precision, and not because nothing happened."""
    assert (other - plain).abs().max() > 1e-3
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def llama(**more: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**{**sizes, "vocab_size": 40, "max_position_embeddings": 32, **more})
    return transformers.LlamaForCausalLM(config).double().eval()


def saved(model: Any, to: Path) -> Path:
    model.save_pretrained(to)
    return to


def drawn(*shape: int) -> Any:
    return torch.randn(*shape, dtype=torch.float64) / 4


def put(directory: Path, name: str, tensors: Mapping[str, Any], config: Mapping[str, Any] | None = None, **metadata: str) -> Path:
    """A directory with one weights file and perhaps a config."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    if name.endswith(".safetensors"):
        save_file({k: v.contiguous() for k, v in tensors.items()}, directory / name, metadata=metadata or None)
    else:
        torch.save(dict(tensors), directory / name)
    if config is not None:
        (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory
