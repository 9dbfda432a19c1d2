"""The pytest plugin: the assertions of :mod:`loradoctor.testing` as fixtures.

pytest imports this at start-up in every project that has loradoctor installed, so it imports nothing else of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loradoctor.diagnostic import Check, Report


@pytest.fixture(scope="session")
def assert_adapter() -> Callable[..., Report]:
    """``assert_adapter(path, base=None, ignore=())``: the adapter checkpoint is sound."""
    from loradoctor import testing

    return testing.assert_adapter


@pytest.fixture(scope="session")
def assert_lint_clean() -> Callable[..., Report]:
    """``assert_lint_clean(paths)``: `loradoctor lint` finds nothing."""
    from loradoctor import testing

    return testing.assert_lint_clean


@pytest.fixture(scope="session")
def assert_merge_equivalent() -> Callable[..., Check]:
    """``assert_merge_equivalent(model_or_path)``: merged and unmerged give the same outputs."""
    from loradoctor import testing

    return testing.assert_merge_equivalent


@pytest.fixture(scope="session")
def assert_merged() -> Callable[..., Check]:
    """``assert_merged(adapter, base, merged)``: the merged model is base plus update, tensor by tensor."""
    from loradoctor import testing

    return testing.assert_merged


@pytest.fixture(scope="session")
def assert_adapter_effective() -> Callable[..., float]:
    """``assert_adapter_effective(model, inputs)``: the adapter changes what the model answers."""
    from loradoctor import testing

    return testing.assert_adapter_effective
