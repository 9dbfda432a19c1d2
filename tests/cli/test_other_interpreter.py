"""`check --python`: the verdict of another environment's PEFT."""

import json
import os

import pytest

from tests.cli.test_check import FIXTURES

OLD = os.environ.get("LORADOCTOR_OLD_PYTHON", "")


@pytest.mark.evidence
@pytest.mark.skipif(not OLD, reason="LORADOCTOR_OLD_PYTHON names no interpreter with an older PEFT; `make evidence` does")
def test_an_older_peft_is_asked(loradoctor):
    adapter, base = FIXTURES / "adapters" / "good_lora", FIXTURES / "base"
    result = loradoctor("check", "--python", OLD, "--base", base, "--format", "json", adapter)
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["subjects"][0]["torch_side"]["peft"] == "0.17.1"
    assert {c["name"]: c["status"] for c in document["checks"]}["merge-equivalence"] == "passed"
