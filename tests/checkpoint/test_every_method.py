"""Every method PEFT has, in several settings: what PEFT writes is silent, what it minds about a changed file is found."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint.methods import METHODS
from loradoctor.checkpoint.run import CheckOptions, check_many
from loradoctor.diagnostic import Report, Severity
from tests.checkpoint import zoo

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = sorted(name for name, case in zoo.CASES.items() if zoo.fields(case.peft_type))
RANDOM_START = frozenset(
    """
    c3a c3a_pattern cartridge cpt deft deft_lowered deft_para fourierft frod frod_seed hra hra_conv ln_tuning ln_tuning_whole
    miss_random multitask_prompt_tuning osf osf_rank osf_share p_tuning prefix_tuning prefix_tuning_projected prompt_tuning
    psoft_free trainable_tokens unilora unilora_indices vblora vblora_many vblora_topk
    """.split()
)
"""Settings whose fresh tensors are not all the same value, so that the file cannot tell whether they were trained."""

BASE_DECIDES = {
    # One tensor of what is saved whole, or of another model: only the base knows its shape and its neighbours.
    r"lora_saved: turn .*lm_head", r"shadow: .*shadow_backbone", r"shadow: flag share_embeddings", r"adalora_dora_free: drop .*head.bias",
    # The only adapted module of layer 0 of 3: the adapter may well start at layer 1.
    r"(hra|oft)_conv: drop", r"ia3_conv3d: drop", r"adalora_dora_free: drop .*attn.out_proj",
    # Sizes of the base model decide what the config means.
    r"lora_experts: size r", r"oft_embedding: turn", r"shira: size r", r"waveft.*: (flag proportional|size n_frequency)", r"oft_shared: ",
    r"(loha|lokr)_conv.*: flag use_effective_conv2d", r"(prefix_tuning|cartridge).*: size num_layers",
    # Which modules share a factor is in the values, and what is made again from the seed is the same.
    r"lily.*: size stride_A", r".*: flag save_(projection|indices|precomputed_indices)=False",
}  # fmt: skip
"""What PEFT minds and the files alone cannot tell; with a base the torch side does."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


PARAMETERS: dict[Path, int] = {}


def adapter(saved: Path, name: str) -> Path:
    if not (saved / name).exists():
        PARAMETERS[saved / name] = zoo.save(zoo.CASES[name], saved / name)
    return saved / name


def light(directory: Path) -> Report:
    return check_many([str(directory)], CheckOptions(base="none"))


@pytest.mark.parametrize("name", CASES)
def test_a_trained_adapter_is_silent(name: str, saved: Path) -> None:
    report = light(adapter(saved, name))
    # Repeated layers load well and can never be merged.
    assert [(d.code, d.message) for d in report.at_least(Severity.WARNING) if d.code != "LD805"] == []
    statuses = {check.name: check.status for check in report.checks}
    assert (statuses["keys"], statuses["shapes"]) == ("passed", "passed")


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_counted_as_peft_does(name: str, saved: Path) -> None:
    directory = adapter(saved, name)
    counted = light(directory).subjects[0].facts["parameters"]
    assert counted is None or METHODS[zoo.CASES[name].peft_type].prompt or name in NOT_AS_TRAINED or counted == PARAMETERS[directory]


# The file holds frozen tensors too, or less than was trained.
NOT_AS_TRAINED = {
    "lora_tokens",
    "vblora_topk",
    "vblora_many",
    "unilora_indices",
    "lora_montecarlo",
    "lora_velora",
    "lora_mica",
    "lora_kasa",
}


@pytest.mark.parametrize("name", [n for n in CASES if n not in RANDOM_START])
def test_an_untrained_adapter_is_said_to_be_untrained(name: str, tmp_path: Path) -> None:
    zoo.save(zoo.CASES[name], tmp_path, trained=False)
    assert [d.code for d in light(tmp_path).at_least(Severity.WARNING) if d.code != "LD805"] == ["LD702"]


def test_a_classifier_that_lost_its_first_layer_is_noticed(tmp_path: Path) -> None:
    """PEFT calls X-LoRA's adapters `0`, `1` … and drops, when it saves, every key with such a component."""
    paths = {}
    for name in ("one", "two"):
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
        peft.get_peft_model(zoo.llama(), config).save_pretrained(tmp_path / name)
        paths[name] = str(tmp_path / name)
    several = peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=16, xlora_size=8, xlora_depth=2, adapters=paths)
    peft.get_peft_model(zoo.llama(use_cache=False), several).save_pretrained(tmp_path / "x")
    found = {
        d.code: d.message for d in light(tmp_path / "x").diagnostics if d.location.path == str(tmp_path / "x/adapter_model.safetensors")
    }
    assert "internal_xlora_classifier.layers.0" in found["LD606"]


_OLDER = """
import pathlib, sys
import zoo
for name, case in zoo.CASES.items():
    if zoo.fields(case.peft_type):
        try:
            zoo.save(case, pathlib.Path(sys.argv[1]) / name)
        except (AttributeError, TypeError, ValueError) as error:
            print(name, "is not in this release:", error)
"""


@pytest.mark.evidence
@pytest.mark.skipif("LORADOCTOR_OLD_PYTHON" not in os.environ, reason="LORADOCTOR_OLD_PYTHON names no interpreter")
def test_what_an_older_peft_writes_is_silent(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([os.environ["LORADOCTOR_OLD_PYTHON"], "-c", _OLDER, str(tmp_path)], check=True, env=environment, capture_output=True)
    written = sorted(tmp_path.iterdir())
    assert len(written) > 50
    for directory in written:
        assert [(directory.name, d.code) for d in light(directory).at_least(Severity.WARNING) if d.code != "LD805"] == []


Change = tuple[str, dict[str, Any], dict[str, Any]]
_NOT_CHANGED = {"inference_mode", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type"}


def changes(tensors: dict[str, Any], config: dict[str, Any]) -> Iterator[Change]:
    """Each role's first tensor dropped and turned, each whole number of the config doubled, each flag flipped."""
    seen = set()
    for name, tensor in tensors.items():
        role = re.sub(r"layers\.\d+\.", "", name)
        if role in seen:
            continue
        seen.add(role)
        yield f"drop {name}", {k: v for k, v in tensors.items() if k != name}, config
        if tensor.ndim > 1 and tensor.mT.shape != tensor.shape:
            yield f"turn {name}", {**tensors, name: tensor.mT.contiguous()}, config
    for field, value in config.items():
        if field in _NOT_CHANGED:
            continue
        if isinstance(value, bool):
            yield f"flag {field}={not value}", tensors, {**config, field: not value}
        elif isinstance(value, int):
            yield f"size {field}={2 * value}", tensors, {**config, field: 2 * value}


def reaction(case: zoo.Case, directory: Path) -> str:
    """What PEFT does when it loads the adapter: an error's type, missing or unexpected keys, other tensors than in the file, or nothing."""
    from safetensors.torch import load_file

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.manual_seed(0)
            model = peft.get_peft_model(case.model(), peft.PeftConfig.from_pretrained(str(directory)))
            tensors = load_file(directory / "adapter_model.safetensors")
            result = peft.set_peft_model_state_dict(model, tensors)
            prefix = getattr(model.base_model, "prefix", None) or "prompt"
            missing = sum(prefix in key for key in result.missing_keys)
            again = peft.get_peft_model_state_dict(model)
        except Exception as error:  # whatever it is, PEFT minds
            return type(error).__name__
    if missing or result.unexpected_keys:
        return f"{missing} missing, {len(result.unexpected_keys)} unexpected"
    same = again.keys() == tensors.keys() and all(
        again[k].shape == t.shape and torch.equal(again[k].to(t.dtype), t) for k, t in tensors.items()
    )
    return "" if same else "differs"


@pytest.mark.evidence
@pytest.mark.parametrize("name", CASES)
def test_every_change_that_peft_minds_is_found(name: str, saved: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    logging.disable(logging.CRITICAL)
    case, source = zoo.CASES[name], adapter(saved, name)
    usual = reaction(case, source)
    missed = []
    for what, tensors, config in changes(
        load_file(source / "adapter_model.safetensors"), json.loads((source / "adapter_config.json").read_text())
    ):
        save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        minds = reaction(case, tmp_path)
        found = [d.code for d in light(tmp_path).at_least(Severity.WARNING) if d.code != "LD805"]
        excused = any(re.match(pattern, f"{name}: {what}") for pattern in BASE_DECIDES)
        if minds not in ("", usual) and not found and not excused:
            missed.append(f"{what}: {minds}")
    logging.disable(logging.NOTSET)
    assert missed == []
