"""`loradoctor check -r` from the outside, and the walk and the processes below it."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from loradoctor.checkpoint.layout import Place, TargetError
from loradoctor.checkpoint.many import check_below
from loradoctor.checkpoint.pool import Lost, can_fork, spread
from loradoctor.checkpoint.run import CheckOptions
from loradoctor.checkpoint.walk import Unlisted, walk

FIXTURES = Path(__file__).parents[2] / "fixtures"
needs_fork = pytest.mark.skipif(not can_fork(), reason="this system does not fork")


def errors(result):
    return [d for d in result.report.diagnostics if d.severity.value == "error"]


def copy(name, to):
    shutil.copytree(FIXTURES / "adapters" / name, to)


@pytest.fixture
def runs(project):
    """A tree as it grows: two runs, a checkpoint, a damaged adapter, a loose file, and what is not ours."""
    copy("good_lora", project / "runs" / "a" / "final")
    copy("good_trainer_checkpoint", project / "runs" / "a" / "final" / "trained")
    copy("untrained", project / "runs" / "b" / "deep" / "er" / "still" / "deeper" / "down")
    copy("config_truncated", project / "runs" / "damaged")
    copy("mlx", project / "runs" / "mlx")
    names = {f"lora_unet_block.lora_{half}.weight": np.full((4, 4), 0.1, np.float32) for half in ("down", "up")}
    for name in ("style", "face"):
        save_file(names, project / "runs" / f"{name}.safetensors")
    save_file({"model.embed.weight": np.zeros((4, 4), np.float32)}, project / "runs" / "other.safetensors")
    copy("good_lora", project / "runs" / ".git" / "adapter")
    copy("good_lora", project / "runs" / "own-environment" / "lib" / "adapter")
    (project / "runs" / "own-environment" / "pyvenv.cfg").write_text("")
    return project / "runs"


FOUND = {
    "runs/a/final": "ok",
    "runs/a/final/trained/checkpoint-20": "ok",
    "runs/b/deep/er/still/deeper/down": "error",
    "runs/damaged": "error",
    "runs/mlx": "error",
    "runs/face.safetensors": "error",
    "runs/style.safetensors": "error",
}


@pytest.mark.parametrize("jobs", [1, 3])
def test_json_lines_have_every_adapter_and_a_summary(loradoctor, runs, jobs):
    result = loradoctor("check", "-r", "--no-base", "--format", "jsonl", "--jobs", jobs, "runs")
    *adapters, last = [json.loads(line) for line in result.out.splitlines()]
    assert (result.code, result.err) == (1, "")
    assert {a["path"]: a["verdict"] for a in adapters} == FOUND
    assert {a["type"] for a in adapters} == {"adapter"}
    assert (last["type"], last["adapters"], last["verdicts"]) == ("summary", 7, {"failed": 0, "error": 5, "warning": 0, "ok": 2})
    assert last["codes"]["LD702"] == {"name": "untrained", "severity": "error", "adapters": 1}
    assert last["summary"]["error"] == sum(a["summary"]["error"] for a in adapters)
    sound = next(a for a in adapters if a["path"] == "runs/a/final")
    assert {c["name"]: c["status"] for c in sound["checks"]}["values"] == "passed"


def test_text_has_a_line_for_each_and_one_table(loradoctor, runs):
    result = loradoctor("check", "-r", "--no-base", "runs")
    assert result.code == 1
    assert "\nok       runs/a/final  LORA, r=4, 4 modules, 3.1 kB\n" in f"\n{result.out}"
    assert "\n         error[LD702] `lora_B` is zero in all 4 modules" in result.out
    table = result.out.partition("\n\n")[2]
    assert table.startswith("code   name ")
    assert "LD702  untrained " in table
    assert table.splitlines()[-1].startswith("7 adapters in ")
    assert table.endswith(" s: 2 ok, 5 error\n")


def test_sound_adapters_need_no_table(loradoctor, runs):
    result = loradoctor("check", "-r", "--no-base", "runs/a")
    assert result.code == 0
    assert "code " not in result.out
    assert result.out.splitlines()[-1].endswith(": 2 ok")


def test_json_is_one_whole(loradoctor, runs):
    result = loradoctor("check", "-r", "--no-base", "--format", "json", "runs")
    document = json.loads(result.out)
    assert result.code == 1
    assert len(document["subjects"]) == 7
    assert document["summary"]["error"] >= 5


def test_other_formats_are_streamed(loradoctor, runs):
    result = loradoctor("check", "-r", "--no-base", "--format", "concise", "runs")
    assert "runs/b/deep/er/still/deeper/down/adapter_model.safetensors: error[LD702]" in result.out


def test_json_lines_without_r(loradoctor, runs):
    result = loradoctor("check", "--no-base", "--format", "jsonl", "runs/a/final", "runs/damaged")
    assert [json.loads(line).get("path") for line in result.out.splitlines()][:-1] in (
        ["runs/a/final", "runs/damaged"],
        ["runs/damaged", "runs/a/final"],
    )


def test_the_report_goes_to_a_file(loradoctor, runs):
    result = loradoctor("check", "-r", "--no-base", "--format", "jsonl", "--output", "report.jsonl", "runs")
    assert (result.code, result.out) == (1, "")
    assert len(Path("report.jsonl").read_text().splitlines()) == 8


def test_nothing_below_is_no_success(loradoctor, project):
    (project / "empty").mkdir()
    result = loradoctor("check", "-r", "empty")
    assert (result.code, result.out) == (2, "")
    assert result.err == "loradoctor: error: there is no adapter below `empty`\n"


@pytest.mark.parametrize(("argument", "says"), [("gone", "`gone` does not exist"), ("fine.py", "`fine.py` is not a directory")])
def test_only_directories_are_searched(loradoctor, project, argument, says):
    result = loradoctor("check", "-r", argument)
    assert result.code == 2
    assert says in result.err


def test_jobs_must_make_sense(loradoctor, project):
    assert loradoctor("check", "-r", "--jobs", "0", ".").code == 2
    assert loradoctor("check", "--jobs", "2", ".").err == "loradoctor: error: `--jobs` needs `-r`\n"


def test_targets_are_judged_for_every_one(loradoctor, runs):
    result = loradoctor("check", "-r", "--no-base", "--target", "vllm", "--format", "jsonl", "runs/mlx")
    adapter = json.loads(result.out.splitlines()[0])
    assert [d["data"]["target"] for d in adapter["diagnostics"] if d["code"] == "LD820"] == ["vllm"]


def test_an_unknown_target_is_wrong_usage(loradoctor, project):
    result = loradoctor("check", "--target", "triton", ".")
    assert (result.code, result.out) == (2, "")
    assert "there is no target `triton`; there are `vllm`, `sglang`, `tgi`, `lorax`, `llama.cpp`" in result.err


def test_targets_of_the_settings(loradoctor, runs, project):
    (project / "pyproject.toml").write_text('[tool.loradoctor]\ntargets = ["vLLM", "ollama"]\n')
    document = json.loads(loradoctor("check", "--no-base", "--format", "json", "runs/a/final").out)
    assert [c["name"] for c in document["checks"] if c["name"].startswith("target ")] == ["target vllm", "target ollama"]
    document = json.loads(loradoctor("check", "--no-base", "--target", "tgi", "--format", "json", "runs/a/final").out)
    assert [c["name"] for c in document["checks"] if c["name"].startswith("target ")] == ["target tgi"]
    (project / "pyproject.toml").write_text('[tool.loradoctor]\ntargets = ["triton"]\n')
    result = loradoctor("check", "--no-base", "runs/a/final")
    assert result.code == 2
    assert "`targets`: there is no target `triton`" in result.err


# -- the walk --------------------------------------------------------------------------------------------------------------------


def found(*roots):
    return [p.path for p in walk(map(str, roots))]


def test_links_around_in_a_circle_end(tmp_path):
    copy("good_lora", tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "c")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert found(tmp_path) == [f"{tmp_path}/a"]


def test_a_link_that_leads_out_is_followed_once(tmp_path):
    copy("good_lora", tmp_path / "elsewhere" / "x")
    (tmp_path / "root").mkdir()
    for name in ("one", "two"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere")
    assert len(found(tmp_path / "root")) == 1


def test_a_root_named_twice_is_searched_once(tmp_path):
    copy("good_lora", tmp_path / "a" / "x")
    assert len(found(tmp_path, tmp_path / "a", tmp_path)) == 1


def test_a_cache_that_is_named_is_searched(tmp_path):
    copy("good_lora", tmp_path / ".cache" / "hub" / "x")
    assert found(tmp_path) == []
    assert found(tmp_path / ".cache") == [f"{tmp_path}/.cache/hub/x"]


def test_a_directory_that_cannot_be_listed_is_a_finding(tmp_path, monkeypatch):
    copy("good_lora", tmp_path / "fine")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert Unlisted(f"{tmp_path}/closed", "permission denied") in list(walk([str(tmp_path)]))
    results = {r.path: [d.code for d in errors(r)] for r in check_below([str(tmp_path)], CheckOptions(base="none"), 1)}
    assert results == {f"{tmp_path}/closed": ["LD004"], f"{tmp_path}/fine": []}


def test_pipes_and_odd_names_are_no_trouble(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "adapter_config.json").mkdir()
    (tmp_path / "dir.safetensors").mkdir()
    copy("good_lora", tmp_path / "line\nbreak \x1b[31m")
    assert len(found(tmp_path)) == 1


def test_a_missing_root_is_an_error():
    with pytest.raises(TargetError):
        list(walk(["/gone/away"]))


# -- the processes ---------------------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_everything_is_done_once(jobs):
    done = dict(spread(lambda n: n * n, range(200), jobs, 60))
    assert done == {n: n * n for n in range(200)}


@needs_fork
def test_the_items_are_read_as_there_is_room():
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield read

    results = spread(lambda n: n, endless(), 2, 60)
    for _ in range(10):
        next(results)
    results.close()
    assert read < 100


@needs_fork
def test_a_process_that_dies_costs_one_item():
    def work(n):
        if n == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        if n == 20:
            os._exit(3)
        return n

    done = dict(spread(work, range(60), 2, 60))
    assert done.pop(7) == Lost("its process was ended by SIGKILL")
    assert done.pop(20) == Lost("its process ended with code 3")
    assert done == {n: n for n in range(60) if n not in (7, 20)}


@needs_fork
def test_a_process_that_hangs_costs_one_item():
    def work(n):
        if n == 3:
            time.sleep(60)
        return n

    done = dict(spread(work, range(30), 2, 0.5))
    assert done.pop(3) == Lost("it took longer than 0.5 s")
    assert len(done) == 29


@needs_fork
def test_a_crash_is_a_finding_of_that_adapter_alone(tmp_path, monkeypatch):
    from loradoctor.checkpoint import many

    for name in "abcd":
        copy("good_lora", tmp_path / name)
    check = many.check_place

    def fall(place: Place, options):
        if place.path.endswith("/b"):
            os.kill(os.getpid(), signal.SIGKILL)
        if place.path.endswith("/c"):
            raise ValueError("odd")
        return check(place, options)

    monkeypatch.setattr(many, "check_place", fall)
    results = {Path(r.path).name: errors(r) for r in check_below([str(tmp_path)], CheckOptions(base="none"), 2)}
    assert {name: [d.code for d in diagnostics] for name, diagnostics in results.items()} == {
        "a": [],
        "b": ["LD002"],
        "c": ["LD002"],
        "d": [],
    }
    assert "SIGKILL" in results["b"][0].message
    assert "ValueError: odd" in results["c"][0].message


def test_adapters_with_a_base_come_last_and_one_at_a_time(tmp_path, monkeypatch):
    from loradoctor.checkpoint import many

    for name in ("a", "b", "c"):
        copy("good_lora", tmp_path / name)
    shutil.copytree(FIXTURES / "base", tmp_path / "tiny-llama")
    config = tmp_path / "a" / "adapter_config.json"
    for name in ("b", "c"):
        path = tmp_path / name / "adapter_config.json"
        path.write_text(config.read_text().replace("loradoctor/tiny-llama", "loradoctor/unknown"))
    asked = []
    monkeypatch.setattr("loradoctor.checkpoint.base.ask", lambda request, **_: asked.append(request["adapter"]) or {"base_error": "no"})
    order = [Path(r.path).name for r in many.check_below([str(tmp_path)], CheckOptions(), 2)]
    assert sorted(order[:2]) == ["b", "c"]
    assert order[2:] == ["a"]
    assert [Path(a).name for a in asked] == ["a"]
