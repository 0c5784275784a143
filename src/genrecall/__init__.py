"""genrecall: generative retrieval in production.

The names below load on first use, so ``import genrecall`` needs neither torch nor a sound installation.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrecall.bundle.load import Recommender as Recommender
    from genrecall.catalog.store import Catalog as Catalog
    from genrecall.engine.config import EngineConfig as EngineConfig
    from genrecall.engine.engine import Engine as Engine
    from genrecall.errors import GenrecallError as GenrecallError
    from genrecall.eval.harness import evaluate as evaluate
    from genrecall.index.trie import Trie as Trie
    from genrecall.recall.channel import Channel as Channel
    from genrecall.sid.rq_kmeans import RqKMeans as RqKMeans
    from genrecall.sid.rq_vae import RqVae as RqVae
    from genrecall.sid.space import SidSpace as SidSpace
    from genrecall.sid.table import SidTable as SidTable
    from genrecall.text.encoder import Encoder as Encoder

__version__ = "0.1.0"

_HOMES = {
    "Catalog": "catalog.store",
    "Channel": "recall.channel",
    "Encoder": "text.encoder",
    "Engine": "engine.engine",
    "EngineConfig": "engine.config",
    "GenrecallError": "errors",
    "Recommender": "bundle.load",
    "RqKMeans": "sid.rq_kmeans",
    "RqVae": "sid.rq_vae",
    "SidSpace": "sid.space",
    "SidTable": "sid.table",
    "Trie": "index.trie",
    "evaluate": "eval.harness",
}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'genrecall' has no attribute {name!r}")
    return getattr(import_module(f"genrecall.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
