"""The quantisers by name, and the file that holds a fitted one with what feeds it."""

from __future__ import annotations

from pathlib import Path

import torch

from genrecall.errors import ConfigError
from genrecall.sid.fsq import Fsq
from genrecall.sid.fusion import Fusion
from genrecall.sid.pq import Pq
from genrecall.sid.quantizer import Quantizer, read_state, write_state
from genrecall.sid.rq_kmeans import RqKMeans
from genrecall.sid.rq_vae import RqVae

Kind = type[RqVae] | type[RqKMeans] | type[Fsq] | type[Pq]
QUANTIZERS: dict[str, Kind] = {kind.name: kind for kind in (RqVae, RqKMeans, Fsq, Pq)}
FILE = "quantizer.safetensors"
_FUSION = "fusion."


def quantizer_class(name: str) -> Kind:
    """The class of this name."""
    if name not in QUANTIZERS:
        raise ConfigError("this quantiser is unknown", seen=name, allowed=", ".join(QUANTIZERS), fix="choose one")
    return QUANTIZERS[name]


def save_quantizer(file: Path, quantizer: Quantizer, fusion: Fusion | None = None) -> None:
    """Write one file: quantiser, its normalisation, and the fusion with collaborative vectors if there was one."""
    state: dict[str, torch.Tensor] = dict(quantizer.state())
    if fusion is not None:
        state |= {_FUSION + name: tensor for name, tensor in fusion.state().items()}
    write_state(file, {"name": quantizer.name, "settings": quantizer.settings()}, state)


def load_quantizer(file: Path) -> tuple[Quantizer, Fusion | None]:
    """Read what ``save_quantizer`` wrote."""
    header, state = read_state(file)
    fused = {name.removeprefix(_FUSION): tensor for name, tensor in state.items() if name.startswith(_FUSION)}
    own = {name: tensor for name, tensor in state.items() if not name.startswith(_FUSION)}
    quantizer = quantizer_class(header["name"]).from_state(header["settings"], own)
    return quantizer, Fusion.from_state(fused) if fused else None
