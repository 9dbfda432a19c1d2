"""What a directory is: said first, in text and JSON, with one finding that explains it and none that follows from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loradoctor.checkpoint.checkpoint import read
from loradoctor.checkpoint.layout import TargetError, places
from loradoctor.checkpoint.run import CheckOptions, check
from loradoctor.diagnostic import Report, Severity
from loradoctor.report.text import Text
from tests.checkpoint.test_convert_gguf import gguf

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

GOOD = Path(__file__).parents[2] / "fixtures" / "adapters" / "good_lora"
WEIGHTS = "adapter_model.safetensors"
MLX = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 20.0}, "num_layers": 1, "model": "org/base"}


def put(to: Path, name: str, names: list[str], shape: tuple[int, ...] = (4, 4), **metadata: str) -> Path:
    to.mkdir(parents=True, exist_ok=True)
    tensors = {n: torch.rand(()) if n.endswith("alpha") else torch.rand(shape) for n in names}
    if name.endswith(".safetensors"):
        safetensors.save_file(tensors, to / name, metadata=metadata or None)
    else:
        torch.save(tensors, to / name)
    return to


def touch(to: Path, *names: str) -> Path:
    for name in names:
        path = to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return to


def halves(stem: str, *leaves: str) -> list[str]:
    return [f"{stem}.{leaf}" for leaf in leaves]


def mlx(to: Path) -> None:
    put(to, "adapters.safetensors", halves("model.layers.0.self_attn.q_proj", "lora_a", "lora_b"))
    (to / "adapter_config.json").write_text(json.dumps(MLX))


def torchtune(to: Path) -> None:
    put(to, "adapter_0.pt", halves("layers.0.attn.q_proj", "lora_a.weight", "lora_b.weight"))
    touch(to, "recipe_state/recipe_state.pt")


def sharded(to: Path) -> None:
    shutil.copytree(GOOD, to, ignore=shutil.ignore_patterns("expected.json", WEIGHTS))
    tensors = sorted(safetensors.load_file(GOOD / WEIGHTS).items())
    for number, part in enumerate((tensors[:4], tensors[4:]), 1):
        safetensors.save_file(dict(part), to / f"adapter_model-0000{number}-of-00002.safetensors")
    index = {"weight_map": {k: "adapter_model-00001-of-00002.safetensors" for k, _ in tensors}}
    (to / "adapter_model.safetensors.index.json").write_text(json.dumps(index))


def indexed(to: Path) -> None:
    touch(to, "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    names = ["model.layers.0.self_attn.q_proj.base_layer.weight", "model.layers.0.self_attn.q_proj.lora_A.default.weight"]
    (to / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")}))


def nested(to: Path) -> None:
    shutil.copytree(GOOD, to, ignore=shutil.ignore_patterns("expected.json", WEIGHTS))
    torch.save({"model": safetensors.load_file(GOOD / WEIGHTS), "epoch": 2}, to / "adapter_model.bin")


def quantized(to: Path) -> None:
    path = gguf(to / "lora.gguf", {"blk.0.attn_q.weight.lora_a": torch.rand(4, 6)})
    whole = bytearray(path.read_bytes())
    place = whole.index(b"blk.0") + len("blk.0.attn_q.weight.lora_a") + 4 + 16
    whole[place : place + 4] = (8).to_bytes(4, "little")
    path.write_bytes(whole)


UNET = "lora_unet_down_blocks_0_attentions_0_proj_in"
CASES: dict[str, tuple[str, str, str, Callable[[Path], object]]] = {
    "mlx": ("mlx", "LD509", "mlx", mlx),
    "torchtune": ("torchtune", "LD509", "torchtune", torchtune),
    "kohya": (
        "kohya",
        "LD509",
        "kohya",
        lambda to: put(to, "style.safetensors", halves(UNET, "lora_down.weight", "lora_up.weight", "alpha")),
    ),
    "flux": (
        "kohya",
        "LD509",
        "kohya",
        lambda to: put(
            to, "f.safetensors", halves("lora_unet_double_blocks_0_img_attn_qkv", "lora_down.weight", "lora_up.weight", "alpha")
        ),
    ),
    "loha": (
        "lycoris",
        "LD509",
        "lycoris",
        lambda to: put(to, "style.safetensors", halves(UNET, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha")),
    ),
    "lokr": ("lycoris", "LD509", "lycoris", lambda to: put(to, "style.safetensors", halves(UNET, "lokr_w1", "lokr_w2", "alpha"))),
    "comfyui": (
        "comfyui",
        "LD509",
        "comfyui",
        lambda to: put(to, "style.safetensors", halves("diffusion_model.blocks.0.attn.q", "lora_A.weight", "lora_B.weight")),
    ),
    "diffusers": (
        "diffusers-pipeline",
        "LD509",
        "diffusers-pipeline",
        lambda to: put(to, "pytorch_lora_weights.safetensors", halves("unet.mid_block.to_q", "lora_A.weight", "lora_B.weight")),
    ),
    "older diffusers": (
        "diffusers",
        "LD509",
        "diffusers",
        lambda to: put(to, "pytorch_lora_weights.bin", halves("mid_block.attn1.processor.to_q_lora", "down.weight", "up.weight")),
    ),
    "gguf": ("gguf", "LD509", "gguf", lambda to: gguf(to / "lora.gguf", {f"blk.0.attn_q.weight.lora_{h}": torch.rand(4, 4) for h in "ab"})),
    "quantized gguf": ("gguf-quantized", "LD509", "gguf-quantized", quantized),
    "shards": ("sharded", "LD501", "sharded", sharded),
    "deepspeed": (
        "partitioned",
        "LD501",
        "partitioned",
        lambda to: touch(to, "global_step20/mp_rank_00_model_states.pt", "zero_to_fp32.py", "latest", "trainer_state.json"),
    ),
    "deepspeed parts": ("partitioned", "LD501", "partitioned", lambda to: touch(to, "mp_rank_00_model_states.pt")),
    "fsdp": ("partitioned", "LD501", "partitioned", lambda to: touch(to, "pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp")),
    "full model": (
        "inside-a-model",
        "LD501",
        "inside-a-model",
        lambda to: put(
            to, "model.safetensors", halves("model.layers.0.q_proj", "weight", "lora_A.default.weight", "lora_B.default.weight")
        ),
    ),
    "full model in shards": ("inside-a-model", "LD501", "inside-a-model", indexed),
    "nested": ("nested-state-dict", "LD507", "nested-state-dict", nested),
}


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, str, str]:
    kind, code, cause, build = CASES[request.param]
    directory = tmp_path / "run"
    build(directory)
    return directory, kind, code, cause


def checked(directory: Path) -> Report:
    return check(str(directory), CheckOptions(base="none"))


@pytest.mark.parametrize("made", CASES, indirect=True)
def test_it_is_recognised_with_one_finding(made: tuple[Path, str, str, str]) -> None:
    directory, kind, code, cause = made
    report = checked(directory)
    (subject,) = report.subjects
    assert subject.kind == kind
    assert [(d.code, d.data["cause"]) for d in report.diagnostics if d.severity is not Severity.INFO] == [(code, cause)]
    shown = Text().render(report).splitlines()[0]
    assert shown == f"{directory} ({subject.facts['what']})"


@pytest.mark.parametrize("made", CASES, indirect=True)
def test_the_way_out_is_named(made: tuple[Path, str, str, str]) -> None:
    (finding,) = [d for d in checked(made[0]).diagnostics if d.severity is Severity.ERROR]
    assert finding.help


def test_a_file_of_another_tool_may_be_named_itself(tmp_path: Path) -> None:
    put(tmp_path, "style.safetensors", halves(UNET, "lora_down.weight", "lora_up.weight", "alpha"))
    report = check(str(tmp_path / "style.safetensors"), CheckOptions(base="none"))
    assert [d.code for d in report.diagnostics if d.severity is Severity.ERROR] == ["LD509"]


def test_several_files_are_several_adapters(tmp_path: Path) -> None:
    for name in ("one", "two"):
        put(tmp_path, f"{name}.safetensors", halves(UNET, "lora_down.weight", "lora_up.weight", "alpha"))
    assert [p.weights.name for p in places([str(tmp_path)]) if p.weights] == ["one.safetensors", "two.safetensors"]


def test_a_plain_model_is_still_no_adapter(tmp_path: Path) -> None:
    put(tmp_path, "model.safetensors", ["model.embed_tokens.weight"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TargetError, match="full model"):
        places([str(tmp_path)])


def test_an_adapter_under_another_name_is_one(tmp_path: Path) -> None:
    shutil.copytree(GOOD, tmp_path / "a", ignore=shutil.ignore_patterns("expected.json"))
    (tmp_path / "a" / WEIGHTS).rename(tmp_path / "a" / "weights.safetensors")
    assert [d.code for d in checked(tmp_path / "a").diagnostics] == ["LD501"]


def test_a_damaged_file_under_another_tool_s_name_is_first_of_all_damaged(tmp_path: Path) -> None:
    mlx(tmp_path / "a")
    (tmp_path / "a" / "adapters.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n")
    assert [d.code for d in checked(tmp_path / "a").diagnostics if d.severity is Severity.ERROR] == ["LD503"]


def test_a_pointer_under_diffusers_name_needs_no_config_of_peft(tmp_path: Path) -> None:
    (tmp_path / "pytorch_lora_weights.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n")
    assert [d.code for d in checked(tmp_path).diagnostics] == ["LD503"]


def test_metadata_that_is_null_is_none(tmp_path: Path) -> None:
    """MLX's own writer puts `"__metadata__":null` into every header, and safetensors reads it."""
    mlx(tmp_path / "a")
    path = tmp_path / "a" / "adapters.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps({"__metadata__": None, **json.loads(data[8 : 8 + length])}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    assert [d.code for d in checked(tmp_path / "a").diagnostics if d.severity is Severity.ERROR] == ["LD509"]


# -- who wrote it ---------------------------------------------------------------------------------------------------------------------


def good(to: Path, **files: str) -> Path:
    shutil.copytree(GOOD, to, ignore=shutil.ignore_patterns("expected.json"))
    for name, text in files.items():
        (to / name.replace("__", ".")).write_text(text)
    return to


def what(directory: Path) -> Any:
    return read(str(directory), directory).what


@pytest.mark.parametrize(
    ("files", "writer"),
    [
        ({"trainer_log__jsonl": "{}"}, "LLaMA-Factory"),
        ({"README__md": "---\nlibrary_name: peft\ntags:\n- llama-factory\n- lora\n---\n# x"}, "LLaMA-Factory"),
        ({"README__md": "---\ntags:\n- axolotl\n- generated_from_trainer\n---\n"}, "axolotl"),
        ({"README__md": "---\ntags:\n- unsloth\n- trl\n---\n"}, "Unsloth"),
        ({"README__md": "---\ntags:\n  - trl\n---\n"}, "TRL"),
        ({"args__json": '{"model": "x", "swift_version": "4.0"}'}, "ms-swift"),
        ({"args__json": '{"model": "x"}'}, None),
        ({"README__md": "# about\n- trl\n"}, None),
        ({}, None),
    ],
)
def test_the_tool_behind_an_adapter(tmp_path: Path, files: dict[str, str], writer: str | None) -> None:
    assert what(good(tmp_path / "a", **files)).writer == writer


def test_a_trainer_s_checkpoint_with_its_state(tmp_path: Path) -> None:
    directory = good(tmp_path / "checkpoint-40", trainer_state__json='{"global_step": 40}')
    touch(directory, "optimizer.pt", "scheduler.pt", "rng_state_0.pth")
    (directory / "training_args.bin").write_bytes(b"\x80\x02ctrl.trainer.sft_config\nSFTConfig\nq\x00)\x81.")
    found = what(directory)
    assert found.title == "adapter in a checkpoint of TRL's SFTTrainer at step 40"
    assert found.state == ("optimizer.pt", "rng_state_0.pth", "scheduler.pt", "trainer_state.json", "training_args.bin")
    assert checked(directory).subjects[0].kind == "trainer-checkpoint"


def test_arguments_that_torch_saved_are_recognised(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    directory = good(tmp_path / "a")
    torch.save(transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True), directory / "training_args.bin")
    assert what(directory).writer == "transformers' Trainer"
