"""From modules to one verdict: pure."""

from __future__ import annotations

import math

import pytest

from loradoctor.checkpoint.evidence import ModuleMerge
from loradoctor.merge.summary import effect, keeping, lost, summarise


def module(name="m", status="equal", **fields):
    return ModuleMerge(**{"module": name, "status": status, "dtype": "bfloat16", "difference": 1e-15, "bound": 1e-12,
                          "effect": 0.1, "update": 1.0, "lost": 0.01, "rounding": 0.5, **fields})  # fmt: skip


def test_all_equal_is_passed_with_its_numbers():
    check = summarise("a", [module(), module(difference=3e-15)])
    assert (check.status, check.measured, check.bound, check.effect) == ("passed", 3e-15, 1e-12, pytest.approx(0.1))


@pytest.mark.parametrize("status", ["different", "shared", "not-reproducible", "not-finite"])
def test_one_bad_module_fails(status):
    check = summarise("a", [module(), module("model.q", status)])
    assert check.status == "failed"
    assert "1 of 2 modules" in check.reason
    assert "`model.q`" in check.reason


@pytest.mark.parametrize(
    ("fields", "measured", "bound"),
    [({"overflow": 3}, 3, 0), ({"lost": 0.7}, 0.7, 0.5), ({"rounding": 9.0}, 9.0, 2.0), ({"status": "shared", "difference": 0.3}, 0.3, 1e-12)],
)
def test_a_failure_shows_its_own_number_beyond_its_own_bound(fields, measured, bound):
    check = summarise("a", [module(), module(**fields)] if "lost" not in fields else [module(**fields)])
    assert (check.status, check.measured, check.bound) == ("failed", pytest.approx(measured), bound)


def test_part_of_the_modules_is_not_enough():
    check = summarise("a", [module(), module(status="not-run", reason="the base is quantized", effect=None, update=None, lost=None)])
    assert (check.status, "1 of 2" in check.reason) == ("not-run", True)


def test_no_effect_is_vacuous_never_passed():
    assert summarise("a", [module(effect=0.0, update=0.0, lost=None)]).status == "vacuous"


def test_rounding_of_the_adapter_itself_is_no_effect():
    assert summarise("a", [module(effect=1e-8, update=1e-8, lost=1.0)]).status == "vacuous"


def test_nothing_examined_is_not_passed():
    assert summarise("a", []).status == "not-run"


def test_one_large_update_does_not_hide_many_lost_ones():
    modules = [module(update=100.0, lost=0.0)] + [module(update=1.0, lost=0.9)] * 5
    assert lost(modules) == 0.9


def test_one_negligible_module_does_not_condemn_the_adapter():
    modules = [module(lost=0.01)] * 9 + [module(update=0.001, lost=1.0)]
    assert lost(modules) < 0.05


def test_effect_is_over_all_weights():
    # Two weights of norm 10 and 20, updates of norm 1 and 2.
    assert effect([module(update=1.0, effect=0.1), module(update=2.0, effect=0.1)]) == pytest.approx(0.1)
    assert effect([module(update=1.0, effect=math.inf)]) == math.inf
    assert effect([]) is None


def test_the_coarsest_dtype_that_keeps_nine_tenths():
    assert keeping([module(dtype="nf4", effect=0.1, largest=1.0)]) == ("bfloat16", pytest.approx(0.0166))
    assert keeping([module(effect=0.01, largest=1.0)]) == ("float16", pytest.approx(0.0207))
    assert keeping([module(effect=0.01, largest=1e5)]) == ("float32", pytest.approx(2.53e-6))
    assert keeping([module(dtype="float32", effect=2.5e-7, largest=1.0)]) is None


def test_most_of_the_weights_decide_what_they_are_stored_as():
    check = summarise("a", [module(dtype="float32"), module(dtype="nf4"), module(dtype="nf4")])
    assert "stored as nf4" in check.reason
