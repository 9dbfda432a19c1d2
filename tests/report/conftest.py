import json

import pytest

from loradoctor.diagnostic import Check, Diagnostic, Edit, Fix, Location, Related, Report, Severity, Span, Subject

TRAIN = """\
model = load(name)
model = get_peft_model(model, config)
if args.resume:
    model = PeftModel.from_pretrained(model, args.resume)
"""


@pytest.fixture
def code_report(tmp_path, monkeypatch):
    """One error in a file, related to another line of it, with a fix."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    where = Location("train.py", Span(4, 13, 4, 58))
    error = Diagnostic(
        code="LD001",
        name="unparsable-source",
        severity=Severity.ERROR,
        message="an adapter is loaded onto a model that already has one",
        location=where,
        subject="train.py",
        help="none of the loaded weights will be used: 100%",
        refs=("LO1",),
        related=(Related("wrapped here", Location("train.py", Span(2, 9, 2, 38))),),
        data={"cause": "nested", "share": float("nan")},
        fix=Fix("load onto the base model", (Edit(10, 15, "base"),)),
    )
    return Report(subjects=(Subject("train.py", "module"),), diagnostics=(error,), suppressed=2)


@pytest.fixture
def adapter_report():
    """A checkpoint with one broken key and one check that was not made."""
    error = Diagnostic(
        code="LD002",
        name="check-did-not-complete",
        severity=Severity.ERROR,
        message="12 keys begin with `base_model.model` twice",
        location=Location("out/adapter_model.safetensors", key="base_model.model.base_model.model.q_proj\n\x1b[2J"),
        subject="out",
        help="the adapter was saved from a model that was wrapped twice",
        refs=("K1",),
    )
    hint = Diagnostic(
        code="LD003",
        name="unused-suppression",
        severity=Severity.INFO,
        message="worth knowing",
        location=Location("out/adapter_config.json", key="r"),
        subject="out",
    )
    facts = {
        "method": "LORA",
        "base": "evil/\u202emodel",
        "r": 8,
        "alpha": 16,
        "scaling": 2.0,
        "modules": {"q_proj": 2, "v_proj": 2},
        "parameters": 4096,
        "dtypes": {"F32": 8},
        "bytes": 17_320,
        "task_type": None,
        "weights": "adapter_model.safetensors",
        "trainer_checkpoint": False,
    }
    checks = (
        Check("out", "keys", "failed", "LD601 nested-wrapping"),
        Check("out", "merge-equivalence", "passed", "relative error", 3.21e-16, 1e-12, 0.25),
        Check("out", "loads", "not-run", "`--no-base`"),
    )
    return Report((Subject("out", "adapter", facts),), checks, (hint, error))


@pytest.fixture
def notebook_report(tmp_path, monkeypatch):
    """A warning in the second cell of a notebook."""
    monkeypatch.chdir(tmp_path)
    cells = [{"source": ["x = 1"]}, {"source": ["# two\n", "model.merge_and_unload()"]}]
    (tmp_path / "run.ipynb").write_text(json.dumps({"cells": cells}, indent=1))
    warning = Diagnostic(
        code="LD003",
        name="unused-suppression",
        severity=Severity.WARNING,
        message="the merged model is dropped",
        location=Location("run.ipynb", Span(2, 1, 2, 25), cell=1),
        subject="run.ipynb",
        related=(Related("loaded here", Location("run.ipynb", Span(1, 1, 1, 2), cell=0)),),
        fix=Fix("assign the result", (Edit(6, 6, "model = ", cell=1),), safe=False),
    )
    return Report(subjects=(Subject("run.ipynb", "notebook"),), diagnostics=(warning,))
