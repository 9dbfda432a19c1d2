"""The SARIF log: what code scanning needs, nothing it rejects."""

import json
from dataclasses import replace

from loradoctor.diagnostic import Location, Report, Span
from loradoctor.registry import all_rules
from loradoctor.report.sarif import render


def _run(report):
    log = json.loads(render(report))
    assert (log["version"], len(log["runs"])) == ("2.1.0", 1)
    return log["runs"][0]


def test_a_finding_in_code(code_report):
    (result,) = _run(code_report)["results"]
    assert result.pop("partialFingerprints").keys() == {"loradoctor/v1"}
    assert result == {
        "ruleId": "LD001",
        "ruleIndex": 0,
        "level": "error",
        "message": {"text": "an adapter is loaded onto a model that already has one\n\nnone of the loaded weights will be used: 100%"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": "train.py", "uriBaseId": "%SRCROOT%"},
                    "region": {"startLine": 4, "startColumn": 13, "endLine": 4, "endColumn": 58},
                }
            }
        ],
        "relatedLocations": [
            {
                "id": 1,
                "message": {"text": "wrapped here"},
                "physicalLocation": {
                    "artifactLocation": {"uri": "train.py", "uriBaseId": "%SRCROOT%"},
                    "region": {"startLine": 2, "startColumn": 9, "endLine": 2, "endColumn": 38},
                },
            }
        ],
        "fixes": [
            {
                "description": {"text": "load onto the base model"},
                "artifactChanges": [
                    {
                        "artifactLocation": {"uri": "train.py", "uriBaseId": "%SRCROOT%"},
                        "replacements": [{"deletedRegion": {"byteOffset": 10, "byteLength": 5}, "insertedContent": {"text": "base"}}],
                    }
                ],
            }
        ],
        "properties": {"name": "unparsable-source", "subject": "train.py", "data": {"cause": "nested", "share": "nan"}},
    }


def test_every_rule_is_described(code_report):
    described = _run(code_report)["tool"]["driver"]["rules"]
    assert [r["id"] for r in described] == [r.code for r in all_rules()]
    assert all(r["help"]["markdown"] and r["shortDescription"]["text"] for r in described)


def test_a_key_is_a_logical_location(adapter_report):
    run = _run(adapter_report)
    assert [r["level"] for r in run["results"]] == ["note", "error"]
    assert run["results"][0]["locations"] == [
        {
            "physicalLocation": {"artifactLocation": {"uri": "out/adapter_config.json", "uriBaseId": "%SRCROOT%"}},
            "logicalLocations": [{"fullyQualifiedName": "r", "kind": "member"}],
        }
    ]
    assert run["invocations"] == [{"executionSuccessful": False}]


def test_a_cell_is_a_logical_location_on_a_line_of_the_file_and_its_fix_is_left_out(notebook_report):
    (result,) = _run(notebook_report)["results"]
    assert result["locations"][0]["logicalLocations"] == [{"fullyQualifiedName": "cell 1, line 2", "kind": "module"}]
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 11}
    assert "fixes" not in result


def _fingerprints(report):
    return [r["partialFingerprints"]["loradoctor/v1"] for r in _run(report)["results"]]


def test_a_fingerprint_survives_lines_moving(code_report, tmp_path):
    before = _fingerprints(code_report)
    source = tmp_path / "train.py"
    source.write_text("# a new first line\n" + source.read_text())
    (moved,) = (replace(d, location=Location("train.py", Span(5, 13, 5, 58))) for d in code_report.diagnostics)
    assert _fingerprints(Report(diagnostics=(moved,))) == before


def test_two_equal_findings_have_two_fingerprints(code_report):
    one, other = _fingerprints(Report(diagnostics=code_report.diagnostics * 2))
    assert one != other


def test_paths_are_uris(code_report):
    (d,) = code_report.diagnostics
    odd = [replace(d, location=Location(path), related=(), fix=None) for path in ("a b/ü#.py", "/abs/x.py")]
    uris = [r["locations"][0]["physicalLocation"]["artifactLocation"] for r in _run(Report(diagnostics=tuple(odd)))["results"]]
    assert uris == [{"uri": "a%20b/%C3%BC%23.py", "uriBaseId": "%SRCROOT%"}, {"uri": "file:///abs/x.py"}]
