"""The JSON format against the contract: every field present, null where it does not apply."""

import json

from loradoctor import __version__
from loradoctor.diagnostic import Check, Report, Subject
from loradoctor.report.json_format import render


def test_a_finding_in_code(code_report):
    assert json.loads(render(code_report)) == {
        "version": 1,
        "tool": {"name": "loradoctor", "version": __version__},
        "subjects": [{"path": "train.py", "kind": "module"}],
        "checks": [],
        "diagnostics": [
            {
                "code": "LD001",
                "name": "unparsable-source",
                "severity": "error",
                "message": "an adapter is loaded onto a model that already has one",
                "help": "none of the loaded weights will be used: 100%",
                "refs": ["LO1"],
                "subject": "train.py",
                "location": {
                    "path": "train.py",
                    "line": 4,
                    "column": 13,
                    "end_line": 4,
                    "end_column": 58,
                    "cell": None,
                    "key": None,
                },
                "related": [
                    {
                        "message": "wrapped here",
                        "location": {
                            "path": "train.py",
                            "line": 2,
                            "column": 9,
                            "end_line": 2,
                            "end_column": 38,
                            "cell": None,
                            "key": None,
                        },
                    }
                ],
                "data": {"cause": "nested", "share": "nan"},
                "fix": {
                    "title": "load onto the base model",
                    "safe": True,
                    "edits": [{"path": "train.py", "cell": None, "start": 10, "end": 15, "text": "base"}],
                },
            }
        ],
        "summary": {"error": 1, "warning": 0, "info": 0, "suppressed": 2},
    }


def test_a_checkpoint_has_its_facts_and_info_is_always_in(adapter_report):
    document = json.loads(render(adapter_report))
    (subject,) = document["subjects"]
    assert (subject["path"], subject["kind"], subject["method"], subject["modules"]) == (
        "out",
        "adapter",
        "LORA",
        {"q_proj": 2, "v_proj": 2},
    )
    assert subject["task_type"] is None
    assert document["checks"][1:] == [
        {
            "subject": "out",
            "name": "merge-equivalence",
            "status": "passed",
            "reason": "relative error",
            "measured": 3.21e-16,
            "bound": 1e-12,
            "effect": 0.25,
        },
        {
            "subject": "out",
            "name": "loads",
            "status": "not-run",
            "reason": "`--no-base`",
            "measured": None,
            "bound": None,
            "effect": None,
        },
    ]
    assert {d["severity"] for d in document["diagnostics"]} == {"error", "info"}
    assert all(d["fix"] is None for d in document["diagnostics"])
    assert document["diagnostics"][0]["help"] is None


def test_the_output_is_strict_json_in_ascii_whatever_the_names():
    subject = Subject("caf\udce9", "adapter", {"base": "\ud800x", "scaling": float("inf"), "path": "no", "tags": {"b", "a"}})
    text = render(Report((subject,), (Check("s", "values", "passed", measured=float("-inf")),)))
    assert text.isascii()
    document = json.loads(text, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert document["subjects"][0] == {
        "base": "\\ud800x",
        "scaling": "inf",
        "path": "caf\\udce9",
        "tags": ["a", "b"],
        "kind": "adapter",
    }
    assert document["checks"][0]["measured"] == "-inf"


def test_the_facts_cannot_pose_as_the_path():
    document = json.loads(render(Report((Subject("real", "adapter", {"path": "fake", "kind": "fake"}),))))
    assert document["subjects"] == [{"path": "real", "kind": "adapter"}]
