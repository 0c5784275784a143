"""One running service for the tests that need real processes: starting one costs seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.process import Served, serve


@pytest.fixture(scope="session")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`genrecall serve` over the toy bundle, with a deadline that a busy test machine can keep."""
    with serve(run / "bundle", tmp_path_factory.mktemp("s") / "state", "--deadline-ms", "3000") as running:
        yield running
