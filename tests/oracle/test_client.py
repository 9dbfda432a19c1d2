"""The child process and every way it can fail."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from loradoctor.checkpoint.layout import TargetError
from loradoctor.checkpoint.run import CheckOptions, check_many
from loradoctor.oracle.client import BadInterpreter, BaseUnavailable, TorchSideFailed, TorchSideMissing, ask, close

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def no_child_left():
    close()
    yield
    close()


def interpreter(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def report(adapter: Path, **options):
    return check_many([str(adapter)], CheckOptions(**options))


def test_the_real_child_answers_among_noise(good, base, tmp_path):
    noisy = interpreter(tmp_path / "python", f'echo "hello from sitecustomize"; exec {sys.executable} "$@"')
    stages = []
    request = {"adapter": str(good), "base": str(base), "merge": True, "online": False, "forward": True, "num_labels": None}
    answer = ask(request, python=noisy, timeout=120, progress=stages.append)
    assert answer["loads"]["status"] == "fully"
    assert {m["status"] for m in answer["merge"]} == {"equal"}
    assert answer["forward"]["difference"] < 1e-5 < answer["forward"]["effect"]
    assert any("merging module" in stage for stage in stages)


def test_an_interpreter_without_torch(tmp_path):
    bare = interpreter(tmp_path / "python", f'exec {sys.executable} -S -E "$@"')
    with pytest.raises(TorchSideMissing, match=r"has no `torch`: pip install 'loradoctor\[torch\]'"):
        ask({}, python=bare, timeout=60)


def test_missing_torch_is_not_run_and_not_an_error(good, tmp_path):
    bare = interpreter(tmp_path / "python", f'exec {sys.executable} -S -E "$@"')
    found = report(good, python=bare)
    assert not [d for d in found.diagnostics if d.code == "LD002"]
    loads = next(c for c in found.checks if c.name == "loads")
    assert (loads.status, "pip install" in loads.reason) == ("not-run", True)


def test_missing_torch_is_an_error_when_the_base_is_insisted_on(good, base, tmp_path):
    bare = interpreter(tmp_path / "python", f'exec {sys.executable} -S -E "$@"')
    with pytest.raises(TargetError, match="pip install"):
        report(good, python=bare, base=str(base))


def test_a_hanging_child_is_stopped_with_its_helpers(tmp_path):
    marker = tmp_path / "survivor"
    hanging = interpreter(tmp_path / "python", f"(sleep 4; touch {marker}) & sleep 60")
    started = time.monotonic()
    with pytest.raises(TorchSideFailed, match=r"did not finish within 0\.5 s"):
        ask({}, python=hanging, timeout=0.5)
    assert time.monotonic() - started < 4
    time.sleep(4.2)
    assert not marker.exists()


def events(*lines: str, every: float) -> str:
    """A script that answers a request with these events."""
    return "read request; " + " ".join(f"sleep {every}; echo '{line}';" for line in lines)


def test_time_in_which_a_download_goes_on_does_not_count(tmp_path):
    arriving = ['{"progress": "fetching `x`, 1 MB so far", "fetching": true}'] * 8
    answering = interpreter(tmp_path / "python", events(*arriving, '{"result": {"loads": 1}}', every=0.3))
    assert ask({}, python=answering, timeout=1.5) == {"loads": 1}


def test_time_in_which_nothing_arrives_counts(tmp_path):
    working = ['{"progress": "merging module 1 of 9", "fetching": false}'] * 8
    slow = interpreter(tmp_path / "python", events(*working, '{"result": {}}', every=0.3))
    with pytest.raises(TorchSideFailed, match=r"within 1\.5 s \(it was merging"):
        ask({}, python=slow, timeout=1.5)


def test_what_the_hub_refuses_is_its_own_failure(tmp_path):
    refused = interpreter(tmp_path / "python", events('{"result": {"unavailable": "`org/x` is gated"}}', every=0.1))
    with pytest.raises(BaseUnavailable, match="is gated"):
        ask({}, python=refused, timeout=20)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'the last words' >&2; exit 3", "ended with status 3 before it answered: the last words"),
        ("kill -SEGV $$", "ended by signal 11 before it answered"),
        ("echo '{\"result\"'; exit 0", "ended with status 0 before it answered"),
    ],
)
def test_a_crash_keeps_its_reason(tmp_path, script, said):
    with pytest.raises(TorchSideFailed, match=said):
        ask({}, python=interpreter(tmp_path / "python", script), timeout=30)


def test_a_crash_is_ld002_and_nothing_is_passed(good, tmp_path):
    found = report(good, python=interpreter(tmp_path / "python", "exit 3"))
    assert [d.message for d in found.diagnostics if d.code == "LD002"] == ["the torch side ended with status 3 before it answered"]
    assert {c.status for c in found.checks if c.name in ("loads", "merge-equivalence")} == {"not-run"}


def test_an_interpreter_that_is_not_there(good, tmp_path):
    with pytest.raises(BadInterpreter, match="cannot be started"):
        ask({}, python=str(tmp_path / "nothing"), timeout=5)
    with pytest.raises(TargetError, match="cannot be started"):
        report(good, python=str(tmp_path / "nothing"))


def test_nothing_of_the_working_directory_is_imported(good, base, tmp_path, monkeypatch):
    (tmp_path / "peft.py").write_text("raise SystemExit('imported from the working directory')")
    (tmp_path / "weights.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    request = {"adapter": str(good), "base": str(base), "merge": False}
    assert ask(request, python=None, timeout=120)["loads"]["status"] == "fully"


def test_the_child_stays_for_the_next_adapter(good, base):
    request = {"adapter": str(good), "base": str(base), "merge": True}
    started = time.monotonic()
    first = ask(request, python=None, timeout=120)
    between = time.monotonic()
    second = ask(request, python=None, timeout=120)
    # The imports are nearly all of the first answer's time.
    assert time.monotonic() - between < (between - started) / 2
    assert first == second


def test_a_child_that_failed_is_not_asked_again(good, base, tmp_path):
    flaky = interpreter(tmp_path / "python", f'test -e {tmp_path}/once && exec {sys.executable} "$@"; touch {tmp_path}/once; exit 3')
    request = {"adapter": str(good), "base": str(base), "merge": False}
    with pytest.raises(TorchSideFailed, match="status 3"):
        ask(request, python=flaky, timeout=120)
    assert ask(request, python=flaky, timeout=120)["loads"]["status"] == "fully"


def test_an_adapter_that_crashes_the_child_does_not_reach_the_next(good, base, tmp_path):
    with pytest.raises(TorchSideFailed, match="FileNotFoundError"):
        ask({"adapter": str(tmp_path / "vanished"), "base": str(base)}, python=None, timeout=120)
    assert ask({"adapter": str(good), "base": str(base)}, python=None, timeout=120)["loads"]["status"] == "fully"


@pytest.mark.evidence
@pytest.mark.skipif("LORADOCTOR_OLD_PYTHON" not in os.environ, reason="LORADOCTOR_OLD_PYTHON names no interpreter")
def test_the_users_own_peft_judges(good):
    found = report(good, python=os.environ["LORADOCTOR_OLD_PYTHON"])
    assert found.subjects[0].facts["torch_side"]["peft"].startswith("0.17.")
    assert {c.name: c.status for c in found.checks if c.name in ("loads", "merge-equivalence")} == {
        "loads": "passed",
        "merge-equivalence": "passed",
    }
