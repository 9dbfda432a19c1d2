"""CPython's tree and libcst's are lowered to one program, and places are libcst's."""

import ast
from pathlib import Path

import pytest

from loradoctor.lint import ir, lower_ast, lower_cst, places

FIXTURES = Path(__file__).parents[2] / "fixtures" / "lint"
SCRIPTS = sorted(p for p in FIXTURES.rglob("*.py"))


def _calls(program):
    return [node for node, _ in places._pairs(program.body, program.body) if isinstance(node, ir.Call)]


def _shape(part):
    """A lowered form without numbers and handles."""
    if isinstance(part, tuple):
        return tuple(map(_shape, part))
    if hasattr(part, "field_names"):
        return type(part).__name__, *(_shape(getattr(part, name)) for name in part.field_names if name not in ("uid", "ref"))
    return part


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: str(p.relative_to(FIXTURES)))
def test_both_trees_are_lowered_to_one_program(path):
    text = path.read_text()
    quick, concrete = lower_ast.parse(text), lower_cst.parse(text)
    if quick is None:
        pytest.skip("this interpreter does not know the syntax")

    assert _shape(quick.lower().body) == _shape(concrete.lower().body)


@pytest.mark.parametrize("path", SCRIPTS[::7], ids=lambda p: str(p.relative_to(FIXTURES)))
def test_the_place_of_a_call_holds_that_call(path):
    text = path.read_text()
    tree = lower_ast.parse(text)
    if tree is None:
        pytest.skip("this interpreter does not know the syntax")

    for call in _calls(tree.lower()):
        start, end = tree.span(call)
        assert isinstance(ast.parse(text[start:end].strip(), mode="eval").body, ast.Call)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('x = f"{load(1)} {load(2)!r:>{width(3)}}"\n', "load(1)"),
        ("x = (  load(1)  )  # why\n", "load(1)"),
        ("é = 'ü'; x = load(1)\n", "load(1)"),
        ("import a\n\x0cx = load(1)\n", "load(1)"),  # libcst loses the form feed; CPython's account is taken
        ("x = load(\n  1,\n)\r\n", "load(\n  1,\n)"),
    ],
    ids=["formatted", "parentheses", "wide", "form feed", "lines"],
)
def test_a_call_stands_where_it_was_written(text, written):
    tree = lower_ast.parse(text)
    assert written in {text[slice(*tree.span(call))] for call in _calls(tree.lower())}


def test_an_argument_is_placed_with_its_parentheses():
    text = "load((a), b=(c))\n"
    tree = lower_ast.parse(text)
    call = _calls(tree.lower())[0]

    assert [text[slice(*tree.span(arg))] for arg in call.args] == ["(a)", "b=(c)"]
    assert text[slice(*tree.span(call.args[0].value))] == "a"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: str(p.relative_to(FIXTURES)))
def test_where_cpython_is_believed_libcst_sees_the_same(path):
    text = path.read_text()
    tree = lower_ast.parse(text)
    if tree is None:
        pytest.skip("this interpreter does not know the syntax")
    program = tree.lower()
    found = places.Places(text, program)

    nodes = [node for node, _ in places._pairs(program.body, program.body)]
    told = [node for node in nodes if found._is_told(node)]
    assert [found._near(node.ref) for node in told] == [found.exact.get(places._key(node), found._near(node.ref)) for node in told]
    assert len(told) > 0.8 * len(nodes)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("load((a), b)\n", ["(a)", "b"]),
        ("load(  # one, two(\n    (a),\n    b)\n", ["(a)", "b"]),
        ("load(b, (  # one,\n    a))\n", ["b", "(  # one,\n    a)"]),
        ("load(a for a in b)\n", ["a for a in b"]),
        ("load((a, b), *c)\n", ["(a, b)", "*c"]),
    ],
    ids=["parentheses", "comment", "comment inside", "generator", "tuple"],
)
def test_an_argument_stands_where_it_was_written(text, written):
    tree = lower_ast.parse(text)
    assert [text[slice(*tree.span(arg))] for arg in _calls(tree.lower())[0].args] == written
