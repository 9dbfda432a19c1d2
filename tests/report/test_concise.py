"""One line a finding."""

from loradoctor.diagnostic import Report
from loradoctor.report.concise import render


def test_one_line_a_finding(code_report, adapter_report, notebook_report):
    assert render(Report.join([code_report, adapter_report, notebook_report])) == (
        "out/adapter_config.json: info[LD003] worth knowing\n"
        "out/adapter_model.safetensors: error[LD002] 12 keys begin with `base_model.model` twice\n"
        "run.ipynb:cell 1:2:1: warning[LD003] the merged model is dropped\n"
        "train.py:4:13: error[LD001] an adapter is loaded onto a model that already has one\n"
    )


def test_nothing_found():
    assert render(Report()) == ""
