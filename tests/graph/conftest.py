"""A bundle, its engine on a thread of this process, and the graph's pieces; everything here needs TensorFlow."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.graph.peer import EnginePeer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        for item in items:
            if item.get_closest_marker("tf"):
                item.add_marker(pytest.mark.skip(reason="TensorFlow is not installed (extra [tf])"))


@pytest.fixture(scope="session")
def engine(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginePeer]:
    """The bundle's engine behind a socket."""
    with EnginePeer(run / "bundle", tmp_path_factory.mktemp("e") / "engine.sock") as peer:
        yield peer


@pytest.fixture(scope="session")
def pieces(run: Path, engine: EnginePeer):
    """The bundle's pieces, asking ``engine``; tests that ask others open their own."""
    from genrecall.graph.retrieval import Retrieval

    return Retrieval.open(run / "bundle", [str(engine.socket)])
