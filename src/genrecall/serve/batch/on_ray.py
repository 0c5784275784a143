"""The same batch on a Ray cluster: Ray Data hands out shards, actors answer them, leases and files stay as they are.

A shard is written by whoever answered it, on the file system that the cluster shares, so the bytes are those of the
local runner, and both can work on one directory. What Ray retries is found done, or is done again with the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genrecall.bundle.contents import Contents
from genrecall.bundle.load import Recommender
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError, DependencyError
from genrecall.serve.batch.run import BatchConfig, Work, planned
from genrecall.serve.cluster.on_ray import join
from genrecall.telemetry import log, progress


class Answering:
    """What one actor holds: the bundle with its model, and the users."""

    def __init__(self, bundle: str, catalog: str, out: str, config: BatchConfig, device: str) -> None:
        contents, users = Contents.open(bundle), Catalog.load(catalog)
        self._work = Work(contents, Recommender.load(bundle, device=device), users, config)
        self._shards = planned(contents, users, Path(out), config)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Do these shards; how many each actor call did."""
        done = 0
        for shard in self._shards.todo(batch["shard"].tolist()):
            self._shards.write(shard, self._work.shard(shard))
            done += 1
        return {"done": np.array([done])}


def run_on_ray(
    bundle: Path, catalog: Path, out: Path, config: BatchConfig, *, actors: int = 1, device: str = "auto"
) -> bool:
    """Work on what is not done yet with ``actors`` processes of a Ray cluster; whether everything is done now.

    A cluster that is running is joined (``RAY_ADDRESS``, or one on this machine); else one is started here and stopped
    again. All paths must be the same on every machine. On CUDA every actor takes a GPU.

    Raises:
        DependencyError: Ray is not installed.
        ConfigError: there is no actor.
    """
    if actors < 1:
        raise ConfigError("nobody would work", seen=f"{actors} actors", allowed="1 or more", fix="raise --workers")
    shards = planned(Contents.open(bundle), Catalog.load(catalog), out, config)
    if shards.finish():
        log(f"{out}: all {shards.count} shards are done")
        return True
    ray = _ray()
    begun = join(ray, log_to_driver=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        paths = [str(path.resolve()) for path in (bundle, catalog, out)]
        gpus: dict[str, Any] = {"num_gpus": 1} if device.startswith("cuda") else {}
        rows = ray.data.from_items([{"shard": shard} for shard in shards.missing], override_num_blocks=actors)
        told = rows.map_batches(
            Answering,
            fn_constructor_args=(*paths, config, device),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            **gpus,
        )
        with progress("shards", len(shards.missing)) as bar:
            for row in told.iter_rows():
                bar.advance(int(row["done"]))
    finally:
        if begun:
            ray.shutdown()
    return shards.finish()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise DependencyError("ray[data]", extra="ray", purpose="batches on a Ray cluster") from error
    return ray
