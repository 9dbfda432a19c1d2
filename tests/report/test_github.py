"""GitHub workflow commands: one line a finding, nothing in it can start another command."""

from loradoctor.diagnostic import Diagnostic, Location, Report, Severity, Span
from loradoctor.report.github import render


def test_a_finding_in_code(code_report):
    assert render(code_report) == (
        "::error file=train.py,line=4,endLine=4,col=13,endColumn=58,title=LD001 unparsable-source"
        "::an adapter is loaded onto a model that already has one%0Anone of the loaded weights will be used: 100%25\n"
    )


def test_a_checkpoint(adapter_report):
    assert render(adapter_report) == (
        "::notice file=out/adapter_config.json,title=LD003 unused-suppression::worth knowing%0Akey: r\n"
        "::error file=out/adapter_model.safetensors,title=LD002 check-did-not-complete"
        "::12 keys begin with `base_model.model` twice%0Akey: base_model.model.base_model.model.q_proj\\n\\x1b[2J"
        "%0Athe adapter was saved from a model that was wrapped twice\n"
    )


def test_a_notebook(notebook_report):
    assert render(notebook_report) == (
        "::warning file=run.ipynb,line=11,title=LD003 unused-suppression::cell 1, line 2: the merged model is dropped\n"
    )


def test_names_cannot_inject():
    location = Location("a,b:c%\n::error::x.py", Span(1, 1, 3, 2))
    report = Report(diagnostics=(Diagnostic("LD001", "n", Severity.ERROR, "m\n::set-env::x", location, "s"),))
    file = "a%2Cb%3Ac%25\\n%3A%3Aerror%3A%3Ax.py"
    assert render(report) == f"::error file={file},line=1,endLine=3,title=LD001 n::m\\n::set-env::x\n"


def test_nothing_found():
    assert render(Report()) == ""
