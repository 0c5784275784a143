"""GPU tests are skipped, with a reason, where there is no CUDA device; tiers run where they are named."""

from pathlib import Path

import pytest

TIERS = ("browser", "fuzz", "gateways", "ranks", "ray", "suites", "tf")
"""Markers of tests that take too long, or too much, for everybody; each has a target in the Makefile."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = config.getoption("markexpr")
    away = [item for item in items if any(item.get_closest_marker(tier) and tier not in named for tier in TIERS)]
    if away:
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if item not in away]
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
    # The unit tier runs first; tests that one worker must run one after the other are not left for the end.
    items.sort(key=lambda item: (bool(item.get_closest_marker("slow")), not item.get_closest_marker("xdist_group")))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run directory; tests read it and must not change it."""
    from tests import pipeline

    return pipeline.build(tmp_path_factory.mktemp("run"))
