"""CPython's own syntax tree → lowered form: a tenth of the time that libcst's takes, and nothing to import.

Most files have nothing to report and are done with that. Where a finding stands is asked of libcst's tree, as is a text that the
interpreter that runs us cannot parse (see :mod:`loradoctor.lint.places` and :mod:`loradoctor.lint.lower_cst`).
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

from loradoctor.lint import ir
from loradoctor.lint.places import Places


def parse(text: str) -> Tree | None:
    """The tree of ``text``; None when this interpreter cannot parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is the program's business
            return Tree(text, ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class Tree:
    """A parsed text, and where its nodes stand."""

    def __init__(self, text: str, module: ast.Module) -> None:
        self.text = text
        self.module = module
        self._program: ir.Program | None = None
        self._places: Places | None = None

    def lower(self) -> ir.Program:
        """The lowered form."""
        lowering = _Lowering()
        first = lowering.uid()
        body = lowering.block(self.module.body)
        self._program = ir.Program(body, first, lowering.uid(), frozenset(lowering.words), tuple(lowering.inside))
        return self._program

    def span(self, node: ir.Node | ir.Arg) -> tuple[int, int]:
        """Character offsets of a node's text, without surrounding whitespace and parentheses."""
        if self._places is None:
            self._places = Places(self.text, self._program or self.lower())
        return self._places.span(node)


class _Lowering:
    """One pass over the tree, numbering nodes as it goes."""

    def __init__(self) -> None:
        self.uid = ir.numbers.__next__
        self.words: set[str] = set()
        self.yields = False
        self.inside: list[tuple[int, int]] = []

    # -- statements

    def block(self, body: Iterable[ast.stmt]) -> tuple[ir.Stmt, ...]:
        statements: list[ir.Stmt] = []
        for node in body:
            handler = _STATEMENTS.get(type(node))
            lowered = handler(self, node) if handler is not None else None
            if lowered is not None:
                statements.append(lowered)
        return tuple(statements)

    def assign(self, node: ast.Assign) -> ir.Stmt:
        value = self.expr(node.value)
        return ir.Assign(self.uid(), node, tuple([self.expr(t) for t in node.targets]), value)

    def annotated(self, node: ast.AnnAssign) -> ir.Stmt | None:
        if node.value is None:
            return None
        return ir.Assign(self.uid(), node, (self.expr(node.target),), self.expr(node.value))

    def augmented(self, node: ast.AugAssign) -> ir.Stmt:
        return ir.Augment(self.uid(), node, self.expr(node.target), self.expr(node.value))

    def evaluate(self, node: ast.Expr) -> ir.Stmt:
        return ir.Evaluate(self.uid(), node, self.expr(node.value))

    def if_(self, node: ast.If) -> ir.Stmt:
        test = self.expr(node.test)
        body = self.block(node.body)
        orelse = node.orelse
        rest = (self.if_(orelse[0]),) if len(orelse) == 1 and type(orelse[0]) is ast.If else self.block(orelse)
        return ir.If(self.uid(), node, test, body, rest)

    def for_(self, node: ast.For | ast.AsyncFor) -> ir.Stmt:
        iterable = self.expr(node.iter)
        target = self.expr(node.target)
        return ir.For(self.uid(), node, target, iterable, self.block(node.body), self.block(node.orelse))

    def while_(self, node: ast.While) -> ir.Stmt:
        return ir.While(self.uid(), node, self.expr(node.test), self.block(node.body), self.block(node.orelse))

    def with_(self, node: ast.With | ast.AsyncWith) -> ir.Stmt:
        items = tuple([(self.expr(i.context_expr), self.expr(i.optional_vars) if i.optional_vars else None) for i in node.items])
        return ir.With(self.uid(), node, items, self.block(node.body))

    def try_(self, node: Any) -> ir.Stmt:
        body = self.block(node.body)
        handlers = tuple([ir.Handler(h.name, self.block(h.body), _caught(h.type)) for h in node.handlers])
        final = self.block(node.finalbody)
        return ir.Try(self.uid(), node, body, handlers, self.block(node.orelse), final)

    def match(self, node: ast.Match) -> ir.Stmt:
        subject = self.expr(node.subject)
        return ir.Match(self.uid(), node, subject, tuple([self.case(c) for c in node.cases]))

    def case(self, node: ast.match_case) -> ir.Case:
        bound = [getattr(p, "rest" if isinstance(p, ast.MatchMapping) else "name", None) for p in ast.walk(node.pattern)]
        wildcard = isinstance(node.pattern, ast.MatchAs) and node.pattern.pattern is None
        guard = self.expr(node.guard) if node.guard else None
        bare = isinstance(node.pattern, ast.MatchClass) and not (node.pattern.patterns or node.pattern.kwd_attrs)
        cls = self.expr(node.pattern.cls) if bare and isinstance(node.pattern, ast.MatchClass) else None
        body = self.block(node.body)
        return ir.Case(tuple(name for name in bound if name), guard, wildcard, body, self.literals(node.pattern), cls)

    def literals(self, pattern: ast.pattern) -> tuple[object, ...]:
        """The values that a pattern matches, none when it is not of literals alone."""
        options = pattern.patterns if isinstance(pattern, ast.MatchOr) else [pattern]
        found: list[object] = []
        for option in options:
            if isinstance(option, ast.MatchSingleton):
                found.append(option.value)
            elif isinstance(option, ast.MatchValue) and isinstance(value := self.expr(option.value), ir.Const):
                found.append(value.value)
        return tuple(found) if len(found) == len(options) else ()

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ir.Stmt:
        outer_words, outer_yields = self.words, self.yields
        self.words, self.yields = set(), False
        decorators = tuple([self.expr(d) for d in node.decorator_list])
        params = self.params(node.args)
        body = self.block(node.body)
        words, generator = frozenset(self.words), self.yields
        outer_words |= words
        outer_words.add(node.name)
        self.words, self.yields = outer_words, outer_yields
        return ir.Function(self.uid(), node, node.name, params, body, decorators, generator, words)

    def class_(self, node: ast.ClassDef) -> ir.Stmt:
        bases = self.args(node.bases, node.keywords)
        decorators = tuple([self.expr(d) for d in node.decorator_list])
        body = self.block(node.body)
        fields = tuple([s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)])
        return ir.Class(self.uid(), node, node.name, bases, body, decorators, fields)

    def return_(self, node: ast.Return) -> ir.Stmt:
        return ir.Return(self.uid(), node, self.expr(node.value) if node.value else None)

    def raise_(self, node: ast.Raise) -> ir.Stmt:
        return ir.Leave(self.uid(), node, "raise", self.expr(node.exc) if node.exc else None)

    def break_(self, node: ast.Break) -> ir.Stmt:
        return ir.Leave(self.uid(), node, "break", None)

    def continue_(self, node: ast.Continue) -> ir.Stmt:
        return ir.Leave(self.uid(), node, "continue", None)

    def import_(self, node: ast.Import) -> ir.Stmt:
        bindings = []
        for alias in node.names:
            self.words.update(alias.name.split("."))
            top = alias.name.partition(".")[0]
            bindings.append((alias.asname, alias.name) if alias.asname else (top, top))
        return ir.Import(self.uid(), node, tuple(bindings))

    def import_from(self, node: ast.ImportFrom) -> ir.Stmt:
        module = "." * node.level + (node.module or "")
        self.words.update(module.split("."))
        if node.names[0].name == "*":
            return ir.Import(self.uid(), node, (("*", module),))
        joint = "" if not module or module.endswith(".") else "."
        self.words.update([alias.name for alias in node.names])
        return ir.Import(self.uid(), node, tuple([(a.asname or a.name, f"{module}{joint}{a.name}") for a in node.names]))

    def delete(self, node: ast.Delete) -> ir.Stmt:
        targets = tuple([self.expr(t) for t in node.targets])
        only = targets[0] if len(targets) == 1 else None
        return ir.Delete(self.uid(), node, only.items if isinstance(only, ir.Sequence) else targets)

    def assert_(self, node: ast.Assert) -> ir.Stmt:
        return ir.Assert(self.uid(), node, self.expr(node.test))

    def outer(self, node: ast.Global | ast.Nonlocal) -> ir.Stmt:
        return ir.Outer(self.uid(), node, "global" if isinstance(node, ast.Global) else "nonlocal", tuple(node.names))

    # -- expressions

    def expr(self, node: ast.expr) -> ir.Expr:
        handler = _EXPRESSIONS.get(type(node))
        if handler is not None:
            return handler(self, node)
        parts = tuple([self.expr(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)])
        return ir.Opaque(self.uid(), node, parts)

    def name(self, node: ast.Name) -> ir.Expr:
        self.words.add(node.id)
        return ir.Name(self.uid(), node, node.id)

    def attribute(self, node: ast.Attribute) -> ir.Expr:
        self.words.add(node.attr)
        return ir.Attr(self.uid(), node, self.expr(node.value), node.attr)

    def constant(self, node: ast.Constant) -> ir.Expr:
        if node.value is ... or isinstance(node.value, complex):
            return ir.Opaque(self.uid(), node, ())
        return ir.Const(self.uid(), node, node.value)

    def formatted(self, node: ast.JoinedStr) -> ir.Expr:
        first, place = self.uid(), len(self.inside)
        parts: list[str | ir.Expr] = []
        for part in node.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
            elif isinstance(part, ast.FormattedValue):
                parts.append(self.expr(part.value))
        last = self.uid()
        self.inside[place:] = [(first, last)]  # strings in its parts are inside it
        return ir.Text(last, node, tuple(parts))

    def args(self, positional: list[ast.expr], keywords: list[ast.keyword]) -> tuple[ir.Arg, ...]:
        given: list[Any] = [*positional, *keywords]
        if keywords and positional and isinstance(positional[-1], ast.Starred):  # the only ones that may follow a keyword
            given.sort(key=lambda a: (a.lineno, a.col_offset))
        return tuple([self.arg(a) for a in given])

    def arg(self, node: ast.expr | ast.keyword) -> ir.Arg:
        if isinstance(node, ast.keyword):
            if node.arg is None:
                return ir.Arg(self.expr(node.value), None, "**", node)
            self.words.add(node.arg)
            return ir.Arg(self.expr(node.value), node.arg, "", node)
        if isinstance(node, ast.Starred):
            return ir.Arg(self.expr(node.value), None, "*", node)
        return ir.Arg(self.expr(node), None, "", node)

    def call(self, node: ast.Call) -> ir.Expr:
        func = self.expr(node.func)
        return ir.Call(self.uid(), node, func, self.args(node.args, node.keywords))

    def sequence(self, node: ast.List | ast.Tuple | ast.Set) -> ir.Expr:
        items = tuple([self.expr(e) for e in node.elts])
        return ir.Sequence(self.uid(), node, _DISPLAYS[type(node)], items)

    def star(self, node: ast.Starred) -> ir.Expr:
        return ir.Star(self.uid(), node, self.expr(node.value))

    def mapping(self, node: ast.Dict) -> ir.Expr:
        items = [(self.expr(k) if k is not None else None, self.expr(v)) for k, v in zip(node.keys, node.values, strict=True)]
        return ir.Mapping(self.uid(), node, tuple(items))

    def lambda_(self, node: ast.Lambda) -> ir.Expr:
        return ir.Lambda(self.uid(), node, self.params(node.args), self.expr(node.body))

    def params(self, node: ast.arguments) -> tuple[ir.Param, ...]:
        def one(param: ast.arg, default: ast.expr | None, star: str = "", keyword_only: bool = False) -> ir.Param:
            return ir.Param(param.arg, self.expr(default) if default else None, star, keyword_only)

        plain = [*node.posonlyargs, *node.args]
        defaults = [None] * (len(plain) - len(node.defaults)) + node.defaults
        lowered = [one(p, d) for p, d in zip(plain, defaults, strict=True)]
        if node.vararg:
            lowered.append(one(node.vararg, None, "*"))
        lowered += [one(p, d, keyword_only=True) for p, d in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        if node.kwarg:
            lowered.append(one(node.kwarg, None, "**"))
        return tuple(lowered)

    def unary(self, node: ast.UnaryOp) -> ir.Expr:
        value = self.expr(node.operand)
        if isinstance(node.op, ast.Not):
            return ir.Not(self.uid(), node, value)
        if isinstance(node.op, ast.USub) and isinstance(value, ir.Const) and isinstance(value.value, (int, float)):
            return ir.Const(self.uid(), node, -value.value)
        return ir.Opaque(self.uid(), node, (value,))

    def boolean(self, node: ast.BoolOp) -> ir.Expr:
        left = self.expr(node.values[0])
        for value in node.values[1:]:
            right = self.expr(value)
            left = ir.BoolOp(self.uid(), node, "and" if isinstance(node.op, ast.And) else "or", left, right)
        return left

    def comparison(self, node: ast.Compare) -> ir.Expr:
        left = self.expr(node.left)
        rights = [self.expr(c) for c in node.comparators]
        if len(rights) > 1:
            return ir.Opaque(self.uid(), node, (left, *rights))
        return ir.Compare(self.uid(), node, left, _OPERATORS.get(type(node.ops[0]), "?"), rights[0])

    def choice(self, node: ast.IfExp) -> ir.Expr:
        return ir.Choice(self.uid(), node, self.expr(node.test), self.expr(node.body), self.expr(node.orelse))

    def subscript(self, node: ast.Subscript) -> ir.Expr:
        value, key = self.expr(node.value), node.slice
        # `x[a, b]` is no key of anything that is followed; `x[(a, b)]` may be.
        bare = isinstance(key, ast.Tuple) and key.elts and (key.lineno, key.col_offset) == (key.elts[0].lineno, key.elts[0].col_offset)
        several = isinstance(key, ast.Slice) or bare
        return ir.Subscript(self.uid(), node, value, None if several else self.expr(key))

    def binary(self, node: ast.BinOp) -> ir.Expr:
        chain = [node]  # a sum of a thousand terms is as deep, and no reason to recurse as often
        while isinstance(chain[-1].left, ast.BinOp):
            chain.append(chain[-1].left)
        found = self.expr(chain[-1].left)
        for each in reversed(chain):
            found = ir.Binary(self.uid(), each, _OPERATORS.get(type(each.op), "?"), found, self.expr(each.right))
        return found

    def walrus(self, node: ast.NamedExpr) -> ir.Expr:
        return ir.Walrus(self.uid(), node, self.expr(node.target), self.expr(node.value))

    def await_(self, node: ast.Await) -> ir.Expr:
        return self.expr(node.value)

    def yield_(self, node: ast.Yield | ast.YieldFrom) -> ir.Expr:
        self.yields = True
        return ir.Yield(self.uid(), node, self.expr(node.value) if node.value else None)

    def comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> ir.Expr:
        clauses = []
        for clause in node.generators:
            iterable, target = self.expr(clause.iter), self.expr(clause.target)
            clauses.append((target, iterable, tuple([self.expr(test) for test in clause.ifs])))
        elements = (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,)
        return ir.Comprehension(self.uid(), node, type(node).__name__, tuple([self.expr(e) for e in elements]), tuple(clauses))


def _caught(types: ast.expr | None) -> tuple[str, ...]:
    each = types.elts if isinstance(types, ast.Tuple) else [] if types is None else [types]
    return tuple([t.attr if isinstance(t, ast.Attribute) else getattr(t, "id", "") for t in each])


_DISPLAYS: dict[type[ast.AST], Literal["list", "tuple", "set"]] = {ast.List: "list", ast.Tuple: "tuple", ast.Set: "set"}

_OPERATORS: dict[type[ast.AST], str] = {
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Add: "+",
    ast.Div: "/",
    ast.Mod: "%",
    ast.BitOr: "|",
}

_STATEMENTS: dict[type[ast.AST], Callable[[_Lowering, Any], ir.Stmt | None]] = {
    ast.Assign: _Lowering.assign,
    ast.AnnAssign: _Lowering.annotated,
    ast.AugAssign: _Lowering.augmented,
    ast.Expr: _Lowering.evaluate,
    ast.If: _Lowering.if_,
    ast.For: _Lowering.for_,
    ast.AsyncFor: _Lowering.for_,
    ast.While: _Lowering.while_,
    ast.With: _Lowering.with_,
    ast.AsyncWith: _Lowering.with_,
    ast.Try: _Lowering.try_,
    ast.TryStar: _Lowering.try_,
    ast.Match: _Lowering.match,
    ast.FunctionDef: _Lowering.function,
    ast.AsyncFunctionDef: _Lowering.function,
    ast.ClassDef: _Lowering.class_,
    ast.Return: _Lowering.return_,
    ast.Raise: _Lowering.raise_,
    ast.Break: _Lowering.break_,
    ast.Continue: _Lowering.continue_,
    ast.Import: _Lowering.import_,
    ast.ImportFrom: _Lowering.import_from,
    ast.Delete: _Lowering.delete,
    ast.Assert: _Lowering.assert_,
    ast.Global: _Lowering.outer,
    ast.Nonlocal: _Lowering.outer,
}

_EXPRESSIONS: dict[type[ast.AST], Callable[[_Lowering, Any], ir.Expr]] = {
    ast.Name: _Lowering.name,
    ast.Attribute: _Lowering.attribute,
    ast.Constant: _Lowering.constant,
    ast.JoinedStr: _Lowering.formatted,
    ast.Call: _Lowering.call,
    ast.List: _Lowering.sequence,
    ast.Tuple: _Lowering.sequence,
    ast.Set: _Lowering.sequence,
    ast.Starred: _Lowering.star,
    ast.Dict: _Lowering.mapping,
    ast.Lambda: _Lowering.lambda_,
    ast.UnaryOp: _Lowering.unary,
    ast.BoolOp: _Lowering.boolean,
    ast.Compare: _Lowering.comparison,
    ast.IfExp: _Lowering.choice,
    ast.Subscript: _Lowering.subscript,
    ast.BinOp: _Lowering.binary,
    ast.NamedExpr: _Lowering.walrus,
    ast.Await: _Lowering.await_,
    ast.Yield: _Lowering.yield_,
    ast.YieldFrom: _Lowering.yield_,
    ast.ListComp: _Lowering.comprehension,
    ast.SetComp: _Lowering.comprehension,
    ast.GeneratorExp: _Lowering.comprehension,
    ast.DictComp: _Lowering.comprehension,
}
