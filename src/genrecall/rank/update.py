"""Tables learn on from new lists while the network stands still: what changed is the next delta.

    T_n = argmin_T loss(lists; T, network fixed),   from T_{n−1}, a few passes of sparse Adam

Incremental training of embeddings between full fits, as online systems do (for example Monolith, Liu et al. 2022, arXiv
2209.07663). Deviation: the network is frozen, so that rows are all that must travel, and a delta of few users is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from genrecall.errors import ConfigError
from genrecall.rank.delta import Delta
from genrecall.rank.lists import ListReader
from genrecall.rank.loss import listwise
from genrecall.rank.sampling import shaped, thinned
from genrecall.rank.score import Ranker
from genrecall.telemetry import log


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """Settings of an update: passes, requests of a batch, candidates of each, learning rate, seed."""

    epochs: int = 1
    requests: int = 64
    negatives: int = 100
    rate: float = 2e-3
    seed: int = 0


def update_tables(ranker: Ranker, lists: ListReader, config: UpdateConfig) -> Delta:
    """Learn on from new lists; the ranker's own tables take the new rows, too.

    Raises:
        ConfigError: its tables are stored as float16, it has none, or they have no room on the device.
    """
    tables, network = ranker.tables, ranker.network
    rows = [parameter for parameter in tables.parameters() if parameter.dtype == torch.float32]
    if not rows or tables.hosted:
        raise ConfigError(
            "this ranker has tables that cannot learn",
            seen=f"{len(tables.names)} tables, {len(rows)} of float32, {len(tables.hosted)} larger than the device",
            allowed="a ranker with sparse features, stored without --half, on a device that has room for it",
            fix="train one, let it learn on --device cpu, or fit it again from all lists",
        )
    before = {name: tables.of(name).detach().clone() for name in tables.names}
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    optimizer, total, count = torch.optim.SparseAdam(rows, lr=config.rate), 0.0, 0
    for epoch in range(config.epochs):
        rng = np.random.default_rng((config.seed, epoch))
        for batch in lists.batches(config.requests, seed=int(rng.integers(1 << 31))):
            part, raised = thinned(batch, np.arange(len(batch)), config.negatives, rng)
            if len(part) == 0:
                continue
            told = shaped(part, lists, ranker.schema)
            inputs = ranker.inputs(told.asked)
            labels = torch.from_numpy(told.labels).to(ranker.device)
            logits = network(inputs, tables) + torch.from_numpy(raised).to(ranker.device)
            loss = listwise(logits, labels, inputs.owner, len(told))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + float(loss.detach()) * len(part), count + len(part)
    changes = {}
    for name, old in before.items():
        new = tables.of(name).detach()
        touched = torch.nonzero((new != old).any(1))[:, 0]
        if len(touched):
            changes[name] = (touched.cpu().numpy(), new[touched].float().cpu().numpy())
    tables.version += 1
    delta = Delta(ranker=ranker.digest, version=tables.version, changes=changes)
    log(f"delta {delta.version}: {delta.rows:,} rows from {count:,} requests, loss {total / max(count, 1):.4f}")
    return delta
