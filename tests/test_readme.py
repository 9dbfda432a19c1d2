"""The README against the tool: its table of rules, its examples, its configuration."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from loradoctor.__main__ import main
from loradoctor.config import _KEYS, load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_the_table_of_rules_is_up_to_date():
    tool = runpy.run_path(str(ROOT / "tools" / "readme.py"))
    assert tool["with_table"](README) == README, "run `make readme`"


CONSOLE = [block.partition("\n")[::2] for block in _blocks("console")]


@pytest.mark.parametrize(("command", "shown"), CONSOLE, ids=[command.removeprefix("$ ") for command, _ in CONSOLE])
def test_an_example_shows_what_the_tool_prints(command, shown, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NO_COLOR", "1")
    program, *argv = command.removeprefix("$ ").split()
    assert program == "loradoctor"
    main(argv)
    # `...` stands for whatever was left out.
    pattern = re.escape(shown).replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern, capsys.readouterr().out, flags=re.DOTALL)


def test_every_command_in_it_exists(capsys):
    for block in _blocks("sh"):
        for line in re.findall(r"^loradoctor (\w+)", block, flags=re.MULTILINE):
            with pytest.raises(SystemExit) as stop:
                main([line, "--help"])
            assert stop.value.code == 0
    capsys.readouterr()


def test_its_configuration_is_accepted_and_has_every_key(tmp_path):
    (block,) = _blocks("toml")
    (tmp_path / "pyproject.toml").write_text(block)
    assert load(str(tmp_path)).select
    assert set(tomllib.loads(block)["tool"]["loradoctor"]) == set(_KEYS)


def test_its_hooks_are_the_ones_that_are_offered():
    offered = re.findall(r"^- id: (\S+)", (ROOT / ".pre-commit-hooks.yaml").read_text(), flags=re.MULTILINE)
    (block,) = _blocks("yaml")
    assert re.findall(r"- id: (\S+)", block) == offered


def test_its_python_compiles():
    for block in _blocks("python"):
        compile(block, "README.md", "exec")


def test_the_changelog_has_this_version():
    from loradoctor import __version__

    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
