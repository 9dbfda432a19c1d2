"""The text format, as whole outputs."""

import pytest

from loradoctor.diagnostic import Diagnostic, Location, Report, Severity, Span, Subject
from loradoctor.report.palette import Palette, wants_colour, wants_motion
from loradoctor.report.sources import Sources
from loradoctor.report.text import Text


def test_a_finding_in_code_shows_the_line_and_the_place_it_is_related_to(code_report):
    assert (
        Text().render(code_report)
        == """\
error[LD001]: an adapter is loaded onto a model that already has one
 --> train.py:4:13
  |
2 | model = get_peft_model(model, config)
  |         ----------------------------- wrapped here
4 |     model = PeftModel.from_pretrained(model, args.resume)
  |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: none of the loaded weights will be used: 100%
  = fix: load onto the base model (`--fix` does it)
  = explain: loradoctor explain LD001

1 error in 1 file (1 fixable with `--fix`; 2 suppressed)
"""
    )


def test_a_checkpoint_has_a_card_and_its_hostile_names_are_spelled_out(adapter_report):
    assert (
        Text().render(adapter_report)
        == r"""out (adapter)
  method      LORA
  base model  evil/\u202emodel
  rank        8
  alpha       16
  scaling     2
  modules     2 q_proj, 2 v_proj
  parameters  4,096
  dtypes      F32 in 8 tensors
  size        17.3 kB
  weights     adapter_model.safetensors
  checks
    keys               failed   LD601 nested-wrapping
    merge-equivalence  passed   relative error (measured 3.21e-16, bound 1e-12, effect 0.25)
    loads              not run  `--no-base`

error[LD002]: 12 keys begin with `base_model.model` twice
 --> out/adapter_model.safetensors
  = key: base_model.model.base_model.model.q_proj\n\x1b[2J
  = help: the adapter was saved from a model that was wrapped twice
  = explain: loradoctor explain LD002

1 error in 1 checkpoint (1 of lower severity hidden, `--verbose` shows them)
"""
    )


def test_a_notebook_shows_the_cell_and_another_cell_apart(notebook_report):
    assert (
        Text().render(notebook_report)
        == """\
warning[LD003]: the merged model is dropped
 --> run.ipynb:cell 1:2:1
  |
2 | model.merge_and_unload()
  | ^^^^^^^^^^^^^^^^^^^^^^^^
 ::: run.ipynb:cell 0:1:1
  |
1 | x = 1
  | - loaded here
  = fix: assign the result (`--unsafe-fixes` does it)
  = explain: loradoctor explain LD003

1 warning in 1 file
"""
    )


def test_nothing_found():
    subjects = (Subject("a.py", "module"), Subject("b.ipynb", "notebook"))
    assert Text().render(Report(subjects)) == "no findings in 2 files\n"


def test_nothing_examined():
    assert Text().render(Report()) == "no findings: no code here uses PEFT\n"


def test_info_is_shown_when_asked_for(adapter_report):
    shown = Text(Severity.INFO).render(adapter_report)
    assert "info[LD003]: worth knowing" in shown
    assert shown.endswith("1 error, 1 info in 1 checkpoint\n")


def _single(location, message="m"):
    return Report(diagnostics=(Diagnostic("LD001", "n", Severity.ERROR, message, location, location.path),))


def _excerpt(text, span):
    sources = Sources({"a.py": text.encode()})
    lines = Text(sources=sources).render(_single(Location("a.py", span))).splitlines()
    return lines[2 : lines.index(next(line for line in lines if "= explain" in line))]


def test_a_long_span_is_shown_by_its_ends():
    assert _excerpt("f(\n" + "    a,\n" * 8 + ")\n", Span(1, 1, 10, 2)) == [
        "   |",
        " 1 | f(",
        "   | ^^",
        "...",
        "10 | )",
        "   | ^",
    ]


def test_a_short_span_is_shown_whole():
    assert _excerpt("x = f(\n    a,\n)\n", Span(1, 5, 3, 2)) == [
        "  |",
        "1 | x = f(",
        "  |     ^^",
        "2 |     a,",
        "  |     ^^",
        "3 | )",
        "  | ^",
    ]


def test_carets_count_terminal_columns():
    assert _excerpt("\t模 = oops(é)\n", Span(1, 6, 1, 13)) == ["  |", "1 |     模 = oops(é)", "  |          ^^^^^^^"]


def test_a_very_long_line_is_cut_around_the_mark():
    shown = _excerpt("x" * 500 + "bad()" + "y" * 500, Span(1, 501, 1, 506))
    assert len(shown[1]) < 180
    start = shown[2].index("^")
    assert shown[1][start : start + 5] == "bad()"


def test_source_lines_cannot_move_the_cursor():
    assert _excerpt('s = "\x1b[2J\u202e"\n', Span(1, 1, 1, 2))[1] == r'1 | s = "\x1b[2J\u202e"'


@pytest.mark.parametrize("span", [Span(9, 1, 9, 5), Span(1, 90, 1, 95), Span(0, 1, 0, 1)])
def test_a_span_outside_the_file_is_no_crash(span):
    assert Text(sources=Sources({"a.py": b"x\n"})).render(_single(Location("a.py", span))).startswith("error[LD001]: m\n")


def test_a_file_that_is_gone_is_no_crash(tmp_path):
    path = str(tmp_path / "gone.py")
    assert "gone.py:1:1" in Text().render(_single(Location(path, Span(1, 1, 1, 2))))


def test_messages_stay_on_one_line():
    assert "error[LD001]: a\\nerror[LD666]: b [bold]c[/bold]\n" in Text().render(
        _single(Location("a.py"), "a\nerror[LD666]: b [bold]c[/bold]")
    )


def test_colour_wraps_but_does_not_change_the_text(code_report):
    import re

    painted = Text(paint=Palette(enabled=True)).render(code_report)
    assert "\x1b[1;31merror[LD001]\x1b[0m" in painted
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == Text().render(code_report)


@pytest.mark.parametrize(
    ("terminal", "environ", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
    ],
)
def test_who_gets_colour(terminal, environ, colour):
    assert wants_colour(terminal, environ) is colour


@pytest.mark.parametrize(
    ("terminal", "environ", "motion"),
    [(True, {}, True), (False, {}, False), (True, {"CI": "true"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_who_gets_progress(terminal, environ, motion):
    assert wants_motion(terminal, environ) is motion
