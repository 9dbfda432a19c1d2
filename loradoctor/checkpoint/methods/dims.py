"""Sizes of axes as small expressions: `r`, `in/b`, `3·out`, `b(b-1)/2`. Known names give sizes, sizes found give names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import EllipsisType

Known = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Product:
    """A constant times names, divided by names: `r*experts`, `in/b`, `2*r`."""

    factor: Fraction = Fraction(1)
    over: tuple[str, ...] = ()
    under: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name in it."""
        return (*self.over, *self.under)

    def __mul__(self, other: Product | int) -> Product:
        right = _product(other)
        return Product(self.factor * right.factor, self.over + right.over, self.under + right.under)

    __rmul__ = __mul__

    def __truediv__(self, other: Product | int) -> Product:
        right = _product(other)
        return Product(self.factor / right.factor, self.over + right.under, self.under + right.over)

    def value(self, known: Known) -> Fraction | None:
        """The size, a fraction when the division does not come out; None while a name is unknown or a divisor is 0."""
        if any(n not in known for n in self.names) or any(known[n] == 0 for n in self.under):
            return None
        return self.factor * math.prod(known[n] for n in self.over) / math.prod(known[n] for n in self.under)

    def solve(self, size: int, known: Known) -> dict[str, int] | None:
        """The one unknown name from the size of the axis; empty when more than one is unknown, None when no whole number fits."""
        unknown = [n for n in self.names if n not in known]
        if len(unknown) != 1:
            return {}
        rest = Product(self.factor, tuple(n for n in self.over if n in known), tuple(n for n in self.under if n in known)).value(known)
        if not rest or (unknown[0] in self.under and size == 0):
            return {}
        found = size / rest if unknown[0] in self.over else rest / size
        return {unknown[0]: int(found)} if found.denominator == 1 and found >= 0 else None

    def __str__(self) -> str:
        number = "" if self.factor.numerator == 1 and self.over else str(self.factor.numerator)
        below = [*self.under, *([str(self.factor.denominator)] if self.factor.denominator != 1 else [])]
        return "·".join(filter(None, [number, *self.over])) + "".join(f"/{n}" for n in below)


@dataclass(frozen=True, slots=True)
class Formula:
    """Any other relation: ``compute`` takes the sizes of ``names`` and gives the axis, None when it cannot; ``inverse`` goes back."""

    text: str
    names: tuple[str, ...]
    compute: Callable[..., int | None]
    inverse: Callable[[int], int | None] | None = None

    def value(self, known: Known) -> Fraction | None:
        """The size; None while a name is unknown."""
        if any(n not in known for n in self.names):
            return None
        size = self.compute(*(known[n] for n in self.names))
        return None if size is None else Fraction(size)

    def solve(self, size: int, known: Known) -> dict[str, int] | None:
        """The name behind a size, for a formula of one name that can be inverted; None when no whole number fits."""
        if self.inverse is None or len(self.names) != 1 or self.names[0] in known:
            return {}
        found = self.inverse(size)
        return None if found is None else {self.names[0]: found}

    def __str__(self) -> str:
        return self.text


Size = Product | Formula | int
Shape = tuple[Size | EllipsisType, ...]
"""Axes in order; a final ``...`` stands for any more of them (the kernel of a convolution)."""


def name(symbol: str) -> Product:
    """A size of its own."""
    return Product(over=(symbol,))


def _product(value: Product | int) -> Product:
    return value if isinstance(value, Product) else Product(Fraction(value))


def _half_square(size: int) -> int | None:
    root = (1 + math.isqrt(1 + 8 * size)) // 2
    return root if root * (root - 1) // 2 == size else None


def pairs(symbol: str) -> Formula:
    """Entries above the diagonal of a square matrix: n(n-1)/2."""
    return Formula(f"{symbol}·({symbol}-1)/2", (symbol,), lambda n: n * (n - 1) // 2, _half_square)


IN, OUT, R = name("in"), name("out"), name("r")
