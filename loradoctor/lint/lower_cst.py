"""libcst tree → lowered form: where everything stands, what CPython's parser cannot read, and the words for what is wrong.

The only module that knows libcst. It lowers a text to the same program as :mod:`loradoctor.lint.lower_ast`.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import libcst as cst
from libcst._nodes.internal import CodegenState

from loradoctor.lint import ir
from loradoctor.lint.lower import ParseError


def parse(text: str) -> Tree:
    """The libcst tree of ``text``, which is not nested too deeply for its parser. Raises :class:`ParseError`."""
    try:
        return Tree(cst.parse_module(text))
    except cst.ParserSyntaxError as error:
        raise _refused(text, error) from None
    except cst.CSTValidationError:  # it misses a space that Python can do without
        spot = _RUN_TOGETHER.search(text)
        before = text[: spot.start() if spot else 0]
        raise ParseError("a space is missing", before.count("\n") + 1, len(before) - before.rfind("\n")) from None
    except UnicodeEncodeError as error:  # lone surrogates cannot be handed to the native parser
        line = text.count("\n", 0, error.start) + 1
        raise ParseError("the text holds a character that is not valid Unicode", line, 1) from None


def _refused(text: str, error: cst.ParserSyntaxError) -> ParseError:
    """What is wrong: where a text cannot be cut into tokens libcst tells no place, and CPython does."""
    if (error.editor_line, error.editor_column) == (1, 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(text)
        except SyntaxError as told:
            reason = told.msg.partition(". ")[0]
            return ParseError(reason[:1].lower() + reason[1:], told.lineno or 1, max(told.offset or 1, 1))
        except (ValueError, RecursionError, MemoryError):
            pass
    return ParseError("invalid syntax", error.editor_line, error.editor_column)


_RUN_TOGETHER = re.compile(r"\b(?:and|assert|else|if|in|is|not|or|return|yield)(?=\.\d|\*)")


class Tree:
    """A parsed text, and where its nodes stand."""

    def __init__(self, module: cst.Module) -> None:
        self.module = module

    def lower(self) -> ir.Program:
        """The lowered form."""
        lowering = _Lowering()
        first = lowering.count
        body = lowering.block(self.module.body)
        return ir.Program(body, first, lowering.count, frozenset(lowering.words))

    def span(self, node: ir.Node | ir.Arg) -> tuple[int, int]:
        """Character offsets of a node's text, without surrounding whitespace and parentheses."""
        return self._written.spans.get(id(node.ref), (0, 0))

    def keeps(self, text: str) -> bool:
        """Whether the offsets are those of ``text``: libcst loses form feeds between statements."""
        return "".join(self._written.tokens) == text

    @cached_property
    def _written(self) -> _Spans:
        state = _Spans(default_indent=self.module.default_indent, default_newline=self.module.default_newline)
        self.module._codegen(state)  # noqa: SLF001 -- the public way walks the tree twice and resolves three providers
        return state


@dataclass
class _Spans(CodegenState):
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    offset: int = 0

    def add_token(self, value: str) -> None:
        self.tokens.append(value)
        self.offset += len(value)

    def add_indent_tokens(self) -> None:
        self.tokens += self.indent_tokens
        self.offset += sum(map(len, self.indent_tokens))

    @contextmanager
    def record_syntactic_position(
        self, node: cst.CSTNode, *, start_node: cst.CSTNode | None = None, end_node: cst.CSTNode | None = None
    ) -> Iterator[None]:
        start = self.offset
        yield
        self.spans[id(node)] = (
            self.spans.get(id(start_node), (start, 0))[0],
            self.spans.get(id(end_node), (0, self.offset))[1],
        )


class _Lowering:
    """One pass over the tree, numbering nodes as it goes."""

    def __init__(self) -> None:
        self.count = next(ir.numbers)
        self.words: set[str] = set()
        self.yields = False

    def uid(self) -> int:
        self.count = next(ir.numbers)
        return self.count

    # -- statements

    def block(self, body: Iterable[Any]) -> tuple[ir.Stmt, ...]:
        statements: list[ir.Stmt] = []
        for node in body:
            if isinstance(node, cst.SimpleStatementLine):
                for small in node.body:
                    statements += self.statement(small)
            else:
                statements += self.statement(node)
        return tuple(statements)

    def suite(self, suite: cst.BaseSuite) -> tuple[ir.Stmt, ...]:
        if isinstance(suite, cst.SimpleStatementSuite):
            return tuple(s for small in suite.body for s in self.statement(small))
        return self.block(suite.body)

    def statement(self, node: cst.CSTNode) -> tuple[ir.Stmt, ...]:
        handler = _STATEMENTS.get(type(node))
        return handler(self, node) if handler else ()

    def assign(self, node: cst.Assign) -> tuple[ir.Stmt, ...]:
        value = self.expr(node.value)
        return (ir.Assign(self.uid(), node, tuple(self.expr(t.target) for t in node.targets), value),)

    def annotated(self, node: cst.AnnAssign) -> tuple[ir.Stmt, ...]:
        if node.value is None:
            return ()
        return (ir.Assign(self.uid(), node, (self.expr(node.target),), self.expr(node.value)),)

    def augmented(self, node: cst.AugAssign) -> tuple[ir.Stmt, ...]:
        return (ir.Augment(self.uid(), node, self.expr(node.target), self.expr(node.value)),)

    def evaluate(self, node: cst.Expr) -> tuple[ir.Stmt, ...]:
        return (ir.Evaluate(self.uid(), node, self.expr(node.value)),)

    def if_(self, node: cst.If) -> tuple[ir.Stmt, ...]:
        test = self.expr(node.test)
        body = self.suite(node.body)
        orelse = self.orelse(node.orelse)
        return (ir.If(self.uid(), node, test, body, orelse),)

    def orelse(self, node: cst.If | cst.Else | None) -> tuple[ir.Stmt, ...]:
        if node is None:
            return ()
        return self.if_(node) if isinstance(node, cst.If) else self.suite(node.body)

    def for_(self, node: cst.For) -> tuple[ir.Stmt, ...]:
        iterable = self.expr(node.iter)
        target = self.expr(node.target)
        return (ir.For(self.uid(), node, target, iterable, self.suite(node.body), self.orelse(node.orelse)),)

    def while_(self, node: cst.While) -> tuple[ir.Stmt, ...]:
        return (ir.While(self.uid(), node, self.expr(node.test), self.suite(node.body), self.orelse(node.orelse)),)

    def with_(self, node: cst.With) -> tuple[ir.Stmt, ...]:
        items = tuple((self.expr(i.item), self.expr(i.asname.name) if i.asname else None) for i in node.items)
        return (ir.With(self.uid(), node, items, self.suite(node.body)),)

    def try_(self, node: cst.Try | cst.TryStar) -> tuple[ir.Stmt, ...]:
        body = self.suite(node.body)
        handlers = tuple(
            ir.Handler(
                h.name.name.value if h.name and isinstance(h.name.name, cst.Name) else None,
                self.suite(h.body),
                tuple(_dotted(t).rpartition(".")[2] for t in _exceptions(h.type)),
            )
            for h in node.handlers
        )
        final = self.suite(node.finalbody.body) if node.finalbody else ()
        return (ir.Try(self.uid(), node, body, handlers, self.orelse(node.orelse), final),)

    def match(self, node: cst.Match) -> tuple[ir.Stmt, ...]:
        subject = self.expr(node.subject)
        cases = tuple(self.case(c) for c in node.cases)
        return (ir.Match(self.uid(), node, subject, cases),)

    def case(self, node: cst.MatchCase) -> ir.Case:
        names: list[str] = []
        pending: list[cst.CSTNode] = [node.pattern]
        while pending:
            part = pending.pop()
            if isinstance(part, (cst.MatchAs, cst.MatchStar, cst.MatchMapping)):
                bound = part.rest if isinstance(part, cst.MatchMapping) else part.name
                names += [bound.value] if bound else []
            pending += part.children
        wildcard = isinstance(node.pattern, cst.MatchAs) and node.pattern.pattern is None
        guard = self.expr(node.guard) if node.guard else None
        bare = isinstance(node.pattern, cst.MatchClass) and not (node.pattern.patterns or node.pattern.kwds)
        cls = self.expr(node.pattern.cls) if bare and isinstance(node.pattern, cst.MatchClass) else None
        return ir.Case(tuple(names), guard, wildcard, self.suite(node.body), self.literals(node.pattern), cls)

    def literals(self, pattern: cst.MatchPattern) -> tuple[object, ...]:
        """The values that a pattern matches, none when it is not of literals alone."""
        options = [o.pattern for o in pattern.patterns] if isinstance(pattern, cst.MatchOr) else [pattern]
        found = [self.expr(o.value) for o in options if isinstance(o, (cst.MatchValue, cst.MatchSingleton))]
        known = tuple(f.value for f in found if isinstance(f, ir.Const))
        return known if len(known) == len(options) else ()

    def function(self, node: cst.FunctionDef) -> tuple[ir.Stmt, ...]:
        outer_words, outer_yields = self.words, self.yields
        self.words, self.yields = set(), False
        decorators = tuple(self.expr(d.decorator) for d in node.decorators)
        params = self.params(node.params)
        body = self.suite(node.body)
        words, generator = frozenset(self.words), self.yields
        self.words, self.yields = outer_words | words | {node.name.value}, outer_yields
        return (ir.Function(self.uid(), node, node.name.value, params, body, decorators, generator, words),)

    def class_(self, node: cst.ClassDef) -> tuple[ir.Stmt, ...]:
        bases = self.args((*node.bases, *node.keywords))
        decorators = tuple(self.expr(d.decorator) for d in node.decorators)
        body = self.suite(node.body)
        lines = (s for s in node.body.body if isinstance(s, cst.SimpleStatementLine))
        annotated = (s.target for line in lines for s in line.body if isinstance(s, cst.AnnAssign))
        fields = tuple(t.value for t in annotated if isinstance(t, cst.Name))
        return (ir.Class(self.uid(), node, node.name.value, bases, body, decorators, fields),)

    def return_(self, node: cst.Return) -> tuple[ir.Stmt, ...]:
        return (ir.Return(self.uid(), node, self.expr(node.value) if node.value else None),)

    def raise_(self, node: cst.Raise) -> tuple[ir.Stmt, ...]:
        return (ir.Leave(self.uid(), node, "raise", self.expr(node.exc) if node.exc else None),)

    def break_(self, node: cst.Break) -> tuple[ir.Stmt, ...]:
        return (ir.Leave(self.uid(), node, "break", None),)

    def continue_(self, node: cst.Continue) -> tuple[ir.Stmt, ...]:
        return (ir.Leave(self.uid(), node, "continue", None),)

    def import_(self, node: cst.Import) -> tuple[ir.Stmt, ...]:
        bindings = []
        for alias in node.names:
            dotted = _dotted(alias.name)
            self.words.update(dotted.split("."))
            if alias.asname and isinstance(alias.asname.name, cst.Name):
                bindings.append((alias.asname.name.value, dotted))
            else:
                top = dotted.partition(".")[0]
                bindings.append((top, top))
        return (ir.Import(self.uid(), node, tuple(bindings)),)

    def import_from(self, node: cst.ImportFrom) -> tuple[ir.Stmt, ...]:
        module = "." * len(node.relative) + (_dotted(node.module) if node.module else "")
        self.words.update(module.split("."))
        if isinstance(node.names, cst.ImportStar):
            return (ir.Import(self.uid(), node, (("*", module),)),)
        bindings = []
        for alias in node.names:
            name = _dotted(alias.name)
            self.words.add(name)
            bound = alias.asname.name.value if alias.asname and isinstance(alias.asname.name, cst.Name) else name
            joint = "" if not module or module.endswith(".") else "."
            bindings.append((bound, f"{module}{joint}{name}"))
        return (ir.Import(self.uid(), node, tuple(bindings)),)

    def delete(self, node: cst.Del) -> tuple[ir.Stmt, ...]:
        target = self.expr(node.target)
        return (ir.Delete(self.uid(), node, target.items if isinstance(target, ir.Sequence) else (target,)),)

    def assert_(self, node: cst.Assert) -> tuple[ir.Stmt, ...]:
        return (ir.Assert(self.uid(), node, self.expr(node.test)),)

    def global_(self, node: cst.Global) -> tuple[ir.Stmt, ...]:
        return (ir.Outer(self.uid(), node, "global", tuple(n.name.value for n in node.names)),)

    def nonlocal_(self, node: cst.Nonlocal) -> tuple[ir.Stmt, ...]:
        return (ir.Outer(self.uid(), node, "nonlocal", tuple(n.name.value for n in node.names)),)

    # -- expressions

    def expr(self, node: cst.CSTNode) -> ir.Expr:
        handler: Callable[[_Lowering, Any], ir.Expr] | None = _EXPRESSIONS.get(type(node))
        if handler is not None:
            return handler(self, node)
        parts = tuple(self.expr(child) for child in node.children if isinstance(child, (cst.BaseExpression, cst.Index, cst.Slice)))
        return ir.Opaque(self.uid(), node, parts)

    def name(self, node: cst.Name) -> ir.Expr:
        constants: dict[str, object] = {"True": True, "False": False, "None": None}
        if node.value in constants:
            return ir.Const(self.uid(), node, constants[node.value])
        self.words.add(node.value)
        return ir.Name(self.uid(), node, node.value)

    def attribute(self, node: cst.Attribute) -> ir.Expr:
        self.words.add(node.attr.value)
        return ir.Attr(self.uid(), node, self.expr(node.value), node.attr.value)

    def number(self, node: cst.Integer | cst.Float) -> ir.Expr:
        try:
            return ir.Const(self.uid(), node, node.evaluated_value)
        except (ValueError, SyntaxError):  # more digits than int() accepts
            return ir.Opaque(self.uid(), node, ())

    def string(self, node: cst.SimpleString | cst.ConcatenatedString) -> ir.Expr:
        if isinstance(node, cst.ConcatenatedString) and node.evaluated_value is None:
            return ir.Opaque(self.uid(), node, (self.expr(node.left), self.expr(node.right)))
        return ir.Const(self.uid(), node, node.evaluated_value)

    def formatted(self, node: cst.FormattedString) -> ir.Expr:
        parts: list[str | ir.Expr] = []
        for part in node.parts:
            if isinstance(part, cst.FormattedStringText):
                parts.append(part.value)
            elif isinstance(part, cst.FormattedStringExpression):
                parts.append(self.expr(part.expression))
        return ir.Text(self.uid(), node, tuple(parts))

    def args(self, args: Iterable[cst.Arg]) -> tuple[ir.Arg, ...]:
        lowered = []
        for arg in args:
            keyword = arg.keyword.value if arg.keyword else None
            if keyword:
                self.words.add(keyword)
            lowered.append(ir.Arg(self.expr(arg.value), keyword, arg.star, arg))
        return tuple(lowered)

    def call(self, node: cst.Call) -> ir.Expr:
        func = self.expr(node.func)
        return ir.Call(self.uid(), node, func, self.args(node.args))

    def sequence(self, node: cst.List | cst.Tuple | cst.Set) -> ir.Expr:
        items = tuple(
            ir.Star(self.uid(), e, self.expr(e.value)) if isinstance(e, cst.StarredElement) else self.expr(e.value) for e in node.elements
        )
        if isinstance(node, cst.List):
            return ir.Sequence(self.uid(), node, "list", items)
        return ir.Sequence(self.uid(), node, "tuple" if isinstance(node, cst.Tuple) else "set", items)

    def mapping(self, node: cst.Dict) -> ir.Expr:
        items = tuple((self.expr(e.key) if isinstance(e, cst.DictElement) else None, self.expr(e.value)) for e in node.elements)
        return ir.Mapping(self.uid(), node, items)

    def lambda_(self, node: cst.Lambda) -> ir.Expr:
        return ir.Lambda(self.uid(), node, self.params(node.params), self.expr(node.body))

    def params(self, node: cst.Parameters) -> tuple[ir.Param, ...]:
        def one(param: cst.Param, star: str = "", keyword_only: bool = False) -> ir.Param:
            default = self.expr(param.default) if param.default else None
            return ir.Param(param.name.value, default, star, keyword_only)

        lowered = [one(p) for p in (*node.posonly_params, *node.params)]
        if isinstance(node.star_arg, cst.Param):
            lowered.append(one(node.star_arg, "*"))
        lowered += [one(p, keyword_only=True) for p in node.kwonly_params]
        if node.star_kwarg:
            lowered.append(one(node.star_kwarg, "**"))
        return tuple(lowered)

    def unary(self, node: cst.UnaryOperation) -> ir.Expr:
        value = self.expr(node.expression)
        if isinstance(node.operator, cst.Not):
            return ir.Not(self.uid(), node, value)
        if isinstance(node.operator, cst.Minus) and isinstance(value, ir.Const) and isinstance(value.value, (int, float)):
            return ir.Const(self.uid(), node, -value.value)
        return ir.Opaque(self.uid(), node, (value,))

    def boolean(self, node: cst.BooleanOperation) -> ir.Expr:
        left, right = self.expr(node.left), self.expr(node.right)
        if isinstance(node.operator, cst.And):
            return ir.BoolOp(self.uid(), node, "and", left, right)
        return ir.BoolOp(self.uid(), node, "or", left, right)

    def comparison(self, node: cst.Comparison) -> ir.Expr:
        left = self.expr(node.left)
        rights = [self.expr(c.comparator) for c in node.comparisons]
        if len(rights) > 1:
            return ir.Opaque(self.uid(), node, (left, *rights))
        operator = _OPERATORS.get(type(node.comparisons[0].operator), "?")
        return ir.Compare(self.uid(), node, left, operator, rights[0])

    def choice(self, node: cst.IfExp) -> ir.Expr:
        return ir.Choice(self.uid(), node, self.expr(node.test), self.expr(node.body), self.expr(node.orelse))

    def subscript(self, node: cst.Subscript) -> ir.Expr:
        value = self.expr(node.value)
        parts = [e.slice for e in node.slice]
        index = self.expr(parts[0].value) if len(parts) == 1 and isinstance(parts[0], cst.Index) else None
        return ir.Subscript(self.uid(), node, value, index)

    def binary(self, node: cst.BinaryOperation) -> ir.Expr:
        operator = _OPERATORS.get(type(node.operator), "?")
        return ir.Binary(self.uid(), node, operator, self.expr(node.left), self.expr(node.right))

    def walrus(self, node: cst.NamedExpr) -> ir.Expr:
        return ir.Walrus(self.uid(), node, self.expr(node.target), self.expr(node.value))

    def await_(self, node: cst.Await) -> ir.Expr:
        return self.expr(node.expression)

    def yield_(self, node: cst.Yield) -> ir.Expr:
        self.yields = True
        value = node.value.item if isinstance(node.value, cst.From) else node.value
        return ir.Yield(self.uid(), node, self.expr(value) if value else None)

    def comprehension(self, node: cst.ListComp | cst.SetComp | cst.GeneratorExp | cst.DictComp) -> ir.Expr:
        clauses = []
        clause: cst.CompFor | None = node.for_in
        while clause is not None:
            iterable, target = self.expr(clause.iter), self.expr(clause.target)
            clauses.append((target, iterable, tuple(self.expr(i.test) for i in clause.ifs)))
            clause = clause.inner_for_in
        elements = (node.key, node.value) if isinstance(node, cst.DictComp) else (node.elt,)
        return ir.Comprehension(self.uid(), node, type(node).__name__, tuple(self.expr(e) for e in elements), tuple(clauses))


def _exceptions(caught: cst.BaseExpression | None) -> list[cst.BaseExpression]:
    if isinstance(caught, cst.Tuple):
        return [e.value for e in caught.elements]
    return [] if caught is None else [caught]


def _dotted(node: cst.BaseExpression) -> str:
    if isinstance(node, cst.Attribute):
        return f"{_dotted(node.value)}.{node.attr.value}"
    return node.value if isinstance(node, cst.Name) else ""


_OPERATORS: dict[type[cst.CSTNode], str] = {
    cst.Is: "is",
    cst.IsNot: "is not",
    cst.Equal: "==",
    cst.NotEqual: "!=",
    cst.In: "in",
    cst.NotIn: "not in",
    cst.LessThan: "<",
    cst.LessThanEqual: "<=",
    cst.GreaterThan: ">",
    cst.GreaterThanEqual: ">=",
    cst.Add: "+",
    cst.Divide: "/",
    cst.Modulo: "%",
    cst.BitOr: "|",
}

_Handler = Callable[[_Lowering, Any], Any]

_STATEMENTS: dict[type[cst.CSTNode], _Handler] = {
    cst.Assign: _Lowering.assign,
    cst.AnnAssign: _Lowering.annotated,
    cst.AugAssign: _Lowering.augmented,
    cst.Expr: _Lowering.evaluate,
    cst.If: _Lowering.if_,
    cst.For: _Lowering.for_,
    cst.While: _Lowering.while_,
    cst.With: _Lowering.with_,
    cst.Try: _Lowering.try_,
    cst.TryStar: _Lowering.try_,
    cst.Match: _Lowering.match,
    cst.FunctionDef: _Lowering.function,
    cst.ClassDef: _Lowering.class_,
    cst.Return: _Lowering.return_,
    cst.Raise: _Lowering.raise_,
    cst.Break: _Lowering.break_,
    cst.Continue: _Lowering.continue_,
    cst.Import: _Lowering.import_,
    cst.ImportFrom: _Lowering.import_from,
    cst.Del: _Lowering.delete,
    cst.Assert: _Lowering.assert_,
    cst.Global: _Lowering.global_,
    cst.Nonlocal: _Lowering.nonlocal_,
}

_EXPRESSIONS: dict[type[cst.CSTNode], _Handler] = {
    cst.Name: _Lowering.name,
    cst.Attribute: _Lowering.attribute,
    cst.Integer: _Lowering.number,
    cst.Float: _Lowering.number,
    cst.SimpleString: _Lowering.string,
    cst.ConcatenatedString: _Lowering.string,
    cst.FormattedString: _Lowering.formatted,
    cst.Call: _Lowering.call,
    cst.List: _Lowering.sequence,
    cst.Tuple: _Lowering.sequence,
    cst.Set: _Lowering.sequence,
    cst.Dict: _Lowering.mapping,
    cst.Lambda: _Lowering.lambda_,
    cst.UnaryOperation: _Lowering.unary,
    cst.BooleanOperation: _Lowering.boolean,
    cst.Comparison: _Lowering.comparison,
    cst.IfExp: _Lowering.choice,
    cst.Subscript: _Lowering.subscript,
    cst.BinaryOperation: _Lowering.binary,
    cst.NamedExpr: _Lowering.walrus,
    cst.Await: _Lowering.await_,
    cst.Yield: _Lowering.yield_,
    cst.ListComp: _Lowering.comprehension,
    cst.SetComp: _Lowering.comprehension,
    cst.GeneratorExp: _Lowering.comprehension,
    cst.DictComp: _Lowering.comprehension,
}
