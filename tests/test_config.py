"""`[tool.loradoctor]`: what it accepts, where it is looked for, and what it says when it is wrong."""

import pytest

from loradoctor.config import ConfigError, Settings, load
from loradoctor.diagnostic import Severity


def _write(directory, text, name="pyproject.toml"):
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(text)
    return str(path)


def test_every_key(tmp_path):
    _write(
        tmp_path,
        """
        [tool.loradoctor]
        select = ["LD0"]
        ignore = ["unused-suppression"]
        fail-on = "error"
        exclude = ["vendor/**"]
        respect-gitignore = false
        python = "python3.12"
        per-path-ignores = { "tests/**" = ["LD004"] }
        documents = true
        cache = false
        target-versions = { peft = "0.17.1" }
        """,
    )
    assert load(str(tmp_path)) == Settings(
        select=frozenset({"LD001", "LD002", "LD003", "LD004"}),
        ignore=frozenset({"LD003"}),
        fail_on=Severity.ERROR,
        exclude=("vendor/**",),
        respect_gitignore=False,
        per_path_ignores={"tests/**": frozenset({"LD004"})},
        documents=True,
        cache=False,
        target_versions={"peft": "0.17.1"},
        python="python3.12",
        root=str(tmp_path),
    )


def test_extend_select_adds_to_select(tmp_path):
    _write(tmp_path, '[tool.loradoctor]\nselect = ["LD001"]\nextend-select = ["LD002"]')
    assert load(str(tmp_path)).select == {"LD001", "LD002"}


def test_extend_select_alone_leaves_everything_selected(tmp_path):
    _write(tmp_path, '[tool.loradoctor]\nextend-select = ["LD002"]')
    assert load(str(tmp_path)).select is None


def test_an_interpreter_given_as_a_path_is_relative_to_the_file(tmp_path):
    _write(tmp_path, '[tool.loradoctor]\npython = ".venv/bin/python"')
    assert load(str(tmp_path / "src")).python == str(tmp_path / ".venv/bin/python")


def test_the_nearest_file_with_our_table_counts(tmp_path):
    _write(tmp_path, '[tool.loradoctor]\nfail-on = "error"')
    _write(tmp_path / "a", '[tool.other]\nname = "loradoctor"')
    source = tmp_path / "a" / "b" / "train.py"
    source.parent.mkdir()
    source.touch()
    assert load(str(source)).fail_on is Severity.ERROR


def test_a_broken_file_that_does_not_mention_us_is_not_our_business(tmp_path):
    _write(tmp_path, "[[[")
    assert load(str(tmp_path)) == Settings()


def test_isolated_reads_nothing(tmp_path):
    _write(tmp_path, "[tool.loradoctor]\nnonsense = 1")
    assert load(str(tmp_path), isolated=True) == Settings()


def test_a_named_file_needs_the_table(tmp_path):
    path = _write(tmp_path, "[tool.other]", "other.toml")
    with pytest.raises(ConfigError, match=r"other\.toml: there is no `\[tool\.loradoctor\]` table"):
        load(config=path)


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml: cannot be read: No such file"):
        load(config=str(tmp_path / "gone.toml"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('slect = ["LD1"]', r"`\[tool.loradoctor\]` has no key `slect`; did you mean `select`\?"),
        ("fail_on = 'error'", "has no key `fail_on`; did you mean `fail-on`"),
        ("zzz = 1", "has no key `zzz`; there are `select`, `ignore`"),
        ('select = ["LD999"]', "`select`: no rule is called `LD999`"),
        ('select = "LD101"', "`select` must be a list of strings, not a string"),
        ("ignore = [1]", "`ignore` must be a list of strings"),
        ('fail-on = "fatal"', "`fail-on` must be one of `error`, `warning`, `info`, not `fatal`"),
        ("respect-gitignore = 1", "`respect-gitignore` must be `true` or `false`, not a number"),
        ("exclude = true", "`exclude` must be a list of strings, not a boolean"),
        ("python = ''", "`python` must be a string that is not empty"),
        ("per-path-ignores = []", "`per-path-ignores` must be a table of patterns"),
        ("per-path-ignores = { 'a' = ['nope'] }", "`per-path-ignores.a`: no rule is called `nope`"),
        ("target-versions = { peft = 1 }", "`target-versions` must be a table of versions"),
        ("target-versions = { pfet = '1' }", "`target-versions`: `pfet` is not one of `accelerate`"),
        ("x = [", "is not TOML: .*; `--isolated` runs without it"),
    ],
)
def test_what_cannot_be_meant_is_an_error_that_names_the_file(tmp_path, line, complaint):
    path = _write(tmp_path, f"[tool.loradoctor]\n{line}")
    with pytest.raises(ConfigError, match=complaint) as error:
        load(str(tmp_path))
    assert str(error.value).startswith(f"{path}: ")


def test_our_table_must_be_a_table(tmp_path):
    _write(tmp_path, "[tool]\nloradoctor = 1")
    with pytest.raises(ConfigError, match=r"`tool\.loradoctor` must be a table, not a number"):
        load(str(tmp_path))


def test_select_of_a_run_takes_the_place_of_the_file():
    settings = Settings(select=frozenset({"LD001"})).overridden(select=["LD002"])
    assert settings.select == {"LD002"}


def test_extend_select_of_a_run_wins_over_what_the_file_ignores():
    settings = Settings(ignore=frozenset({"LD001", "LD002"})).overridden(extend_select=["LD001"])
    assert (settings.enabled("LD001"), settings.enabled("LD002")) == (True, False)


def test_ignore_of_a_run_wins_over_everything():
    settings = Settings(select=frozenset({"LD001"})).overridden(ignore=["LD001"], extend_select=["LD001"])
    assert not settings.enabled("LD001")


def test_an_unknown_severity_of_a_run_is_an_error():
    with pytest.raises(ConfigError, match="`fail-on` must be one of"):
        Settings().overridden(fail_on="fatal")
