"""Every row of every runtime's table: an adapter that trips it, and one that differs in that thing alone and does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from loradoctor.checkpoint.checkpoint import read
from loradoctor.checkpoint.evidence import Evidence
from loradoctor.checkpoint.run import CheckOptions, check
from loradoctor.checkpoint.targets import NAMES, UnknownTarget, known, obstacles, runtime
from loradoctor.checkpoint.targets.features import FEATURES, WHOLE
from loradoctor.checkpoint.targets.punica import padded

WIDTH = 32
PREFIX = "base_model.model.model.layers"
Shapes = dict[str, tuple[int, ...]]


def halves(module: str, rank: int = 8, name: str = "weight", width: int = WIDTH) -> Shapes:
    return {f"{module}.lora_A.{name}": (rank, width), f"{module}.lora_B.{name}": (width, rank)}


def layers(*kinds: str, rank: int = 8, indices: tuple[int, ...] = (0, 1)) -> Shapes:
    return {k: s for i in indices for kind in kinds for k, s in halves(f"{PREFIX}.{i}.{kind}", rank).items()}


SOUND = layers("self_attn.q_proj", "self_attn.v_proj")


@dataclass
class Made:
    """What one adapter is made of: changes to a sound one."""

    config: Mapping[str, Any] = field(default_factory=dict)
    more: Shapes = field(default_factory=dict)
    shapes: Shapes | None = None
    base: Mapping[str, Any] | None = None
    files: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "adapter_model.safetensors"
    raw: Mapping[str, Any] | None = None

    def write(self, root: Path) -> Path:
        directory = root / "adapter"
        directory.mkdir()
        shapes = {**(SOUND if self.shapes is None else self.shapes), **self.more}
        tensors = {k: np.full(s, 0.01, np.float32) for k, s in shapes.items()}
        path = directory / self.weights
        if path.suffix == ".bin":
            torch = pytest.importorskip("torch")
            torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, path)
        else:
            save_file(tensors, path)
        plain = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "org/base", "r": 8, "lora_alpha": 16,
            "target_modules": ["q_proj", "v_proj"],
        }  # fmt: skip
        config = {k: v for k, v in {**plain, **self.config}.items() if v is not ...} if self.raw is None else self.raw
        (directory / "adapter_config.json").write_text(json.dumps(config))
        for name, content in self.files.items():
            (directory / name).write_text(json.dumps(content))
        if self.base is not None:
            (root / "base").mkdir()
            (root / "base" / "config.json").write_text(json.dumps(self.base))
        return directory


Q0 = f"{PREFIX}.0.self_attn.q_proj"
BIASES: Shapes = {f"{PREFIX}.{i}.self_attn.{m}.base_layer.bias": (WIDTH,) for i in (0, 1) for m in ("q_proj", "v_proj")}
EMBED = "base_model.model.model.embed_tokens"
MLX_CONFIG = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0}}
MLX_SHAPES: Shapes = {"model.layers.0.mlp.up_proj.lora_a": (WIDTH, 8), "model.layers.0.mlp.up_proj.lora_b": (8, WIDTH)}
MLX = Made(raw=MLX_CONFIG, shapes=MLX_SHAPES, weights="adapters.safetensors")
EMBEDDING: Shapes = {f"{EMBED}.lora_embedding_A": (8, 40), f"{EMBED}.lora_embedding_B": (WIDTH, 8)}
HEAD: Shapes = {"base_model.model.lm_head.weight": (40, WIDTH)}
LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "vocab_size": 40}
VISION = halves("base_model.model.model.vision_tower.layers.0.self_attn.q_proj")
EXPERT = f"{PREFIX}.0.mlp.experts.3.w1"
TRIPPED: dict[str, tuple[Made, Made]] = {
    "format": (MLX, Made()),
    "foreign-names": (Made(shapes={k.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): s for k, s in SOUND.items()}), Made()),
    "method": (Made({"peft_type": "ADALORA"}), Made()),
    "pickle": (Made(weights="adapter_model.bin"), Made()),
    "dora": (Made({"use_dora": True}, {f"{Q0}.lora_magnitude_vector": (WIDTH,)}), Made({"use_dora": False})),
    "rslora": (
        Made({"use_rslora": True}),
        Made({"use_rslora": True, "r": 1}, shapes=layers("self_attn.q_proj", "self_attn.v_proj", rank=1)),
    ),
    "alpha-pattern": (Made({"alpha_pattern": {"v_proj": 64}}), Made({"alpha_pattern": {"v_proj": 16, "k_proj": 64}})),
    "rank-pattern": (
        Made({"rank_pattern": {"v_proj": 16}}, shapes={**layers("self_attn.q_proj"), **layers("self_attn.v_proj", rank=16)}),
        Made({"rank_pattern": {"k_proj": 16}}),
    ),
    "bias": (Made({"bias": "lora_only"}, BIASES), Made({"bias": "lora_only"})),
    "bias-field": (Made({"bias": "lora_only"}), Made({"bias": "none"})),
    "lora-bias": (
        Made({"lora_bias": True}, {k.replace(".weight", ".bias"): (WIDTH,) for k in SOUND if "lora_B" in k}),
        Made({"lora_bias": False}),
    ),
    "modules-to-save": (
        Made({"modules_to_save": ["post_norm"]}, {"base_model.model.post_projection.weight": (WIDTH, WIDTH)}),
        Made({"modules_to_save": None}),
    ),
    "modules-to-save-but-heads": (
        Made({"modules_to_save": ["lm_head"]}, HEAD),
        Made({"modules_to_save": ["score"], "task_type": "SEQ_CLS"}, {"base_model.model.score.weight": (2, WIDTH)}),
    ),
    "input-embedding": (Made({"target_modules": ["q_proj", "v_proj", "embed_tokens"]}, EMBEDDING), Made()),
    "output-embedding": (Made({"target_modules": ["q_proj", "v_proj", "lm_head"]}, halves("base_model.model.lm_head")), Made()),
    "resized-embedding": (Made(more=EMBEDDING, base={"vocab_size": 38}), Made(more=EMBEDDING, base={"vocab_size": 40})),
    "token-rows": (
        Made({"trainable_token_indices": [1]}, {f"{EMBED}.token_adapter.trainable_tokens_delta": (1, WIDTH)}),
        Made({"trainable_token_indices": None}),
    ),
    "rewriting-init": (Made({"init_lora_weights": "pissa_niter_4"}), Made({"init_lora_weights": "gaussian"})),
    "alora": (Made({"alora_invocation_tokens": [1, 2]}), Made({"alora_invocation_tokens": None})),
    "layer-replication": (
        Made({"layer_replication": [[0, 2], [1, 2]]}, layers("self_attn.q_proj", "self_attn.v_proj", indices=(2,))),
        Made({"layer_replication": None}),
    ),
    "bdlora": (Made({"use_bdlora": {"nblocks": 2}}, {k: (WIDTH, 4) for k in SOUND if "lora_B" in k}), Made({"use_bdlora": None})),
    "qalora": (Made({"use_qalora": True}, {k: (8, WIDTH // 2) for k in SOUND if "lora_A" in k}), Made({"use_qalora": False})),
    "further-tensors": (Made(more={f"{Q0}.lora_diag": (8,)}), Made()),
    "fused-experts": (
        Made({"target_parameters": ["mlp.experts.gate_up_proj"]}, halves(f"{PREFIX}.0.mlp.experts")),
        Made(more=layers("mlp.experts.0.up_proj")),
    ),
    "backbone": (
        Made(shapes={k.replace("model.model.", "model."): s for k, s in SOUND.items()}),
        Made({"task_type": "FEATURE_EXTRACTION"}, shapes={k.replace("model.model.", "model."): s for k, s in SOUND.items()}),
    ),
    "regex-targets": (Made({"target_modules": r".*\.(q|v)_proj"}), Made({"target_modules": "all-linear"})),
    "adapter-name": (Made(shapes={k.replace(".weight", ".poet.weight"): s for k, s in SOUND.items()}), Made()),
    "wrapper": (Made(shapes={k.replace("model.layers", "_orig_mod.model.layers"): s for k, s in SOUND.items()}), Made()),
    "prefix": (Made(shapes={f"base_model.model.{k}": s for k, s in SOUND.items()}), Made()),
    "vision": (Made(more=VISION), Made(more=layers("mlp.up_proj"))),
}
"""Cause → what trips it, and its look-alike; for every runtime that has the cause in its table."""

PARTIAL = (
    Made({"layers_to_transform": [1]}, shapes=layers("self_attn.q_proj", "self_attn.v_proj", indices=(1,))),
    Made(base={"num_hidden_layers": 2}),
)
PADDED = (
    Made({"r": 12}, shapes=layers("self_attn.q_proj", "self_attn.v_proj", rank=12)),
    Made({"r": 16}, shapes=layers("self_attn.q_proj", "self_attn.v_proj", rank=16)),
)
UNEVEN = (
    Made({"rank_pattern": {"layers.1.self_attn.v_proj": 32}},
         shapes={**layers("self_attn.q_proj"), **halves(f"{PREFIX}.0.self_attn.v_proj"), **halves(f"{PREFIX}.1.self_attn.v_proj", 32)}),
    Made({"rank_pattern": {"v_proj": 8}}),
)  # fmt: skip
NO_R = (Made({"lora_alpha": ...}), Made())
OWN: list[tuple[str, str, bool, tuple[Made, Made]]] = [
    ("vllm", "rank", True, (Made({"r": 17}), Made({"r": 16}))),
    ("vllm", "rank", True, (Made({"rank_pattern": {"q_proj": 64}}), Made({"rank_pattern": {"q_proj": 16}}))),
    ("vllm", "missing-field", True, NO_R),
    ("sglang", "missing-field", True, NO_R),
    ("sglang", "q-without-v", True, (Made(shapes=layers("self_attn.q_proj", "self_attn.k_proj")), Made(more=layers("self_attn.k_proj")))),
    ("sglang", "v-without-q", True, (Made(shapes=layers("self_attn.v_proj")), Made(shapes=layers("self_attn.o_proj")))),
    ("sglang", "modules-to-save", True, (Made(more={f"{PREFIX}.0.input_layernorm.weight": (WIDTH,)}), Made())),
    ("sglang", "modules-to-save", False, (Made({"modules_to_save": ["lm_head"]}, HEAD), Made({"modules_to_save": []}))),
    ("sglang", "embedding", False, (Made(more=EMBEDDING), Made({"target_modules": ["q_proj", "v_proj", "model.embed_tokens"]}, EMBEDDING))),
    ("sglang", "added-tokens", True, (Made(base=LLAMA, files={"added_tokens.json": {"<x>": 40}}),
                                      Made(base=LLAMA, files={"added_tokens.json": {"<x>": 39}}))),
    ("tgi", "padded-rank", False, PADDED), ("lorax", "padded-rank", False, PADDED),
    ("tgi", "partial-layers", False, PARTIAL), ("lorax", "partial-layers", False, PARTIAL),
    ("tgi", "partial-layers", False, (Made(base={"num_hidden_layers": 3}), Made(base={"num_hidden_layers": 2}))),
    ("tgi", "rank-pattern", True, UNEVEN), ("lorax", "rank-pattern", True, UNEVEN),
    ("tgi", "rank-pattern", False, TRIPPED["rank-pattern"]), ("lorax", "rank-pattern", False, TRIPPED["rank-pattern"]),
    ("tgi", "module-not-served", False, (Made(shapes=halves("base_model.model.transformer.h.0.attn.c_attn")), Made())),
    ("tgi", "module-not-served", False, TRIPPED["output-embedding"]),
    ("llama.cpp", "modules-to-save", True, (Made({"modules_to_save": ["lm_head"]}, HEAD), Made())),
    ("llama.cpp", "modules-to-save", False, (Made(more={"base_model.model.model.norm.weight": (WIDTH,)}), Made())),
    ("llama.cpp", "tied-output", True, (
        Made(more=halves("base_model.model.lm_head"), base={**LLAMA, "tie_word_embeddings": True}),
        Made(more=halves("base_model.model.lm_head"), base={**LLAMA, "tie_word_embeddings": False}))),
    ("llama.cpp", "base-unknown", True, (Made({"base_model_name_or_path": None}), Made())),
    ("llama.cpp", "base-unknown", True, (Made({"base_model_name_or_path": "/gone/away"}), Made({"base_model_name_or_path": "/tmp"}))),
    ("tensorrt-llm", "rank", True, (Made({"r": 65}), Made({"r": 64}))),
    ("tensorrt-llm", "modules-to-save", True, (Made(more={"base_model.model.score.weight": (2, WIDTH)}),
                                               Made({"modules_to_save": ["lm_head"]}, HEAD))),
    ("tensorrt-llm", "dora", False, (
        Made({"use_dora": True}, {**halves(EXPERT), f"{EXPERT}.lora_magnitude_vector": (WIDTH,)}), TRIPPED["dora"][0])),
    ("mlx", "format", True, (Made(), MLX)),
    ("mlx", "missing-field", True, (
        replace(MLX, raw={**MLX_CONFIG, "lora_parameters": {"rank": 8, "alpha": 16, "dropout": 0}}), MLX)),
    ("mlx", "missing-field", True, (replace(MLX, raw={k: v for k, v in MLX_CONFIG.items() if k != "num_layers"}), MLX)),
    ("mlx", "names", True, (replace(MLX, more={"model.norm.weight": (WIDTH,)}), MLX)),
    ("ollama", "alpha", True, (Made({"lora_alpha": 16.0}), Made({"lora_alpha": 16}))),
    ("ollama", "scale", False, (MLX, replace(MLX, raw={**MLX_CONFIG, "lora_parameters": {"rank": 8, "scale": 20.0, "alpha": 160}}))),
    ("ollama", "architecture", True, (Made(base={"model_type": "qwen2"}), Made(base=LLAMA))),
    ("ollama", "rotary-order", False, (Made(base=LLAMA), Made(base={"model_type": "gemma2"}))),
    ("ollama", "rotary-order", False, (Made(base=LLAMA), Made(shapes=layers("self_attn.v_proj"), base=LLAMA))),
    ("ollama", "rank", False, (Made({"r": 40}, shapes=layers("self_attn.v_proj", rank=40)), Made({"r": 32}))),
    ("ollama", "module-not-served", True, (Made(shapes=layers("self_attn.qkv_proj")), Made())),
]  # fmt: skip


def rows() -> Iterator[Any]:
    for name in NAMES:
        for cause, reaction in runtime(name).reactions.items():
            yield pytest.param(name, cause, reaction.refuses, TRIPPED[cause], id=f"{name}-{cause}")
    for number, (name, cause, refuses, made) in enumerate(OWN):
        yield pytest.param(name, cause, refuses, made, id=f"{name}-{cause}-{number}")


def causes(made: Made, root: Path, name: str) -> dict[str, bool]:
    root.mkdir()
    checkpoint = replace(read("adapter", made.write(root)), targets=(name,))
    if made.base is not None:
        checkpoint = checkpoint.with_evidence(Evidence(base=str(root / "base")))
    found = [(o.cause, o.reaction.refuses) for _, o in obstacles(checkpoint)]
    assert len(dict(found)) == len(found), f"one cause, two findings: {found}"
    return dict(found)


@pytest.mark.parametrize(("name", "cause", "refuses", "made"), list(rows()))
def test_a_row(name: str, cause: str, refuses: bool, made: tuple[Made, Made], tmp_path: Path) -> None:
    assert causes(made[0], tmp_path / "trips", name).get(cause) is refuses
    assert cause not in causes(made[1], tmp_path / "near", name)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_a_table_has_a_detector_and_a_source(name: str) -> None:
    target = runtime(name)
    assert set(target.reactions) <= {*FEATURES, *WHOLE}
    assert (target.name, bool(target.title), bool(target.version)) == (name, True, True)
    for reaction in target.reactions.values():
        assert "/" in reaction.source or ".py" in reaction.source
        assert reaction.why


@pytest.mark.parametrize("name", [n for n in NAMES if n != "mlx"])
def test_a_plain_adapter_is_served(name: str, tmp_path: Path) -> None:
    shapes = layers("self_attn.v_proj", "mlp.up_proj") if name == "ollama" else SOUND
    assert causes(Made(shapes=shapes, base=LLAMA), tmp_path / "a", name) == {}


def test_an_mlx_directory_is_mlxs(tmp_path: Path) -> None:
    assert causes(MLX, tmp_path / "a", "mlx") == {}


@pytest.mark.parametrize(("rank", "wanted"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (64, 64)])
def test_ranks_are_padded_for_the_kernels(rank: int, wanted: int) -> None:
    assert padded(rank) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_judged_is_not_judged(name: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    report = check(str(tmp_path), CheckOptions(base="none", targets=(name,)))
    assert not [d for d in report.diagnostics if d.code in ("LD820", "LD821", "LD002")]
    assert [c.status for c in report.checks if c.name == f"target {name}"] == ["not-run"]


def run(made: Made, root: Path, *targets: str) -> Any:
    return check(str(made.write(root)), CheckOptions(base="none", targets=targets))


def test_a_finding_says_what_a_program_needs(tmp_path: Path) -> None:
    report = run(Made({"use_rslora": True}), tmp_path, "sglang")
    (diagnostic,) = (d for d in report.diagnostics if d.code == "LD821")
    assert diagnostic.severity.value == "warning"
    assert diagnostic.data["target"] == "sglang"
    assert {"cause", "target", "version", "source", "way_out"} <= set(diagnostic.data)
    assert "SGLang 0.5.23 " in diagnostic.message
    assert "set `lora_alpha` to 45.2548 " in diagnostic.help
    assert diagnostic.location.key == "use_rslora"


def test_the_flag_that_raises_a_limit_is_named(tmp_path: Path) -> None:
    report = run(Made({"r": 48}, shapes=layers("self_attn.q_proj", "self_attn.v_proj", rank=48)), tmp_path, "vllm")
    (diagnostic,) = (d for d in report.diagnostics if "target" in d.data)
    assert (diagnostic.code, diagnostic.severity.value) == ("LD820", "error")
    assert "`--max-lora-rank 64`" in diagnostic.help


def test_no_flag_raises_vllms_last_limit(tmp_path: Path) -> None:
    report = run(Made({"r": 513}, shapes=layers("self_attn.q_proj", rank=513)), tmp_path, "vllm")
    (diagnostic,) = (d for d in report.diagnostics if "target" in d.data)
    assert "merge" in diagnostic.help


def test_each_target_has_a_check(tmp_path: Path) -> None:
    report = run(Made({"use_dora": True}), tmp_path, "vllm", "tensorrt-llm")
    assert {c.name: c.status for c in report.checks if c.name.startswith("target ")} == {
        "target vllm": "failed",
        "target tensorrt-llm": "passed",
    }


def test_without_targets_nothing_is_said(tmp_path: Path) -> None:
    report = run(Made({"use_rslora": True, "bias": "none"}), tmp_path)
    assert not [c for c in report.checks if c.name.startswith("target ")]
    assert not [d for d in report.diagnostics if d.code.startswith("LD82")]


def test_names_are_taken_as_people_write_them() -> None:
    assert known(["vLLM", "TensorRT_LLM", "vllm"]) == ("vllm", "tensorrt-llm")
    with pytest.raises(UnknownTarget, match="`vllm`, `sglang`"):
        known(["triton"])


def test_targets_of_the_function(tmp_path: Path) -> None:
    import loradoctor

    path = Made({"use_dora": True}).write(tmp_path)
    found = loradoctor.check(path, base=None, targets=["vLLM", "mlx"], isolated=True).diagnostics
    assert [d.data["target"] for d in found if d.code == "LD820"] == ["mlx", "vllm"]
    with pytest.raises(loradoctor.ConfigError, match="`triton`"):
        loradoctor.check(path, base=None, targets="triton", isolated=True)


HOSTILE: list[Callable[[], Made]] = [
    lambda: Made({"rank_pattern": 5, "alpha_pattern": ["x"], "target_modules": {"a": 1}, "modules_to_save": 3, "use_bdlora": [1]}),
    lambda: Made({"rank_pattern": {"(": "x"}, "alpha_pattern": {"(": 1}, "r": "8", "lora_alpha": "16", "bias": 7}),
    lambda: Made({"r": -1, "lora_alpha": float("nan"), "init_lora_weights": 3, "base_model_name_or_path": "\0/x"}),
    lambda: Made({"lora_alpha": float("inf"), "base_model_name_or_path": "/\0"}),
    lambda: Made(
        base={"vocab_size": "many", "num_hidden_layers": True, "text_config": 3, "model_type": 5}, files={"added_tokens.json": [1]}
    ),
    lambda: Made(shapes={f"{Q0}.lora_A.weight": (), f"{Q0}.lora_B.weight": (3,), "": (1,), "lora_A": (1,), f"{Q0}.lora_embedding_A": ()}),
    lambda: replace(MLX, raw={"lora_parameters": [1], "num_layers": None}),
    lambda: replace(MLX, raw={"lora_parameters": {"scale": "x", "alpha": None}}),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_odd_values_are_no_crash(name: str, number: int, tmp_path: Path) -> None:
    causes(HOSTILE[number](), tmp_path / "a", name)
