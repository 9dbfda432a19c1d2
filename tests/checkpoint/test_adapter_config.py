"""Reading `adapter_config.json`, whatever stands in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradoctor.checkpoint.adapter_config import read
from loradoctor.checkpoint.fault import ReadError
from loradoctor.checkpoint.methods.fields import known
from loradoctor.checkpoint.run import CheckOptions, check_many

VALUE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.just(10**400),
        st.floats(allow_nan=True),
        st.text(max_size=8),
        st.sampled_from(["LORA", "(", ".*"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
FIELDS = st.sampled_from(sorted(known("ADALORA")))


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "adapter_config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"[1]", "holds a list"),
        (b'{"r": 8,', "line 1, column 9"),
        (b"\xff\xfe{\x00}\x00", "is not UTF-8"),
        (b"[" * 100_000, "cannot be parsed"),
        (b"1" * 10_000, "cannot be parsed"),
    ],
)
def test_what_is_no_config_is_said_so(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ReadError, match=said):
        read(written(tmp_path, content))


def test_a_merge_conflict_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(ReadError) as caught:
        read(written(tmp_path, "{\n<<<<<<< HEAD\n=======\n>>>>>>> x\n}"))
    assert "merge conflict" in caught.value.fault.help


def test_the_last_of_two_keys_wins_and_is_where_the_finding_stands(tmp_path: Path) -> None:
    config = read(written(tmp_path, '{"r": 8,\n "lora_alpha": 16,\n "lora_alpha": 32}'))
    span = config.span("lora_alpha")
    assert (config.alpha, config.duplicates) == (32, ("lora_alpha",))
    assert span is not None
    assert (span.line, span.column, span.end_column) == (3, 2, 14)


def test_a_byte_order_mark_is_reported_and_read_past(tmp_path: Path) -> None:
    config = read(written(tmp_path, b"\xef\xbb\xbf" + b'{"r": 4}'))
    assert config.r == 4
    assert [f.data["cause"] for f in config.faults] == ["bom"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(FIELDS, VALUE, max_size=6), st.sampled_from(["LORA", "ADALORA", "IA3", None]))
def test_no_value_of_any_field_crashes_a_rule(tmp_path: Path, raw: dict[str, Any], peft_type: str | None) -> None:
    pytest.importorskip("safetensors")
    import numpy as np
    from safetensors.numpy import save_file

    if peft_type is not None:
        raw = {**raw, "peft_type": peft_type}
    written(tmp_path, json.dumps(raw))
    names = [f"base_model.model.layers.{i}.{m}.lora_{h}.weight" for i in range(2) for m in ("q_proj", "v_proj") for h in "AB"]
    save_file({n: np.ones((4, 4), np.float32) for n in names}, tmp_path / "adapter_model.safetensors")
    report = check_many([str(tmp_path)], CheckOptions(base="none"))
    assert [d.message for d in report.diagnostics if d.code == "LD002"] == []
    json.dumps([s.facts for s in report.subjects], allow_nan=False)
