"""One model spread over the processes of a run: FSDP2 (Zhao et al. 2023, arXiv 2304.11277; torch's ``fully_shard``).

    each process keeps 1/N of every tensor;  forward, backward: all-gather a block, use it, drop it;
    gradients: reduce-scatter, mean over processes

Every decoder block is a unit and the rest (embedding, last norm, output rows) is the root's, which stays gathered for
the whole step, as the loss reads it outside of any block. We deviate from ``accelerate.prepare``, which calls the same
function but on GPUs only (on CPUs it falls back to copies without a word): so what CI tests with two processes on gloo
is what runs on NCCL.
"""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def shard(learner: nn.Module, model: PreTrainedModel, device: torch.device, *, bfloat16: bool = False) -> None:
    """Spread the tensors of ``model``, a part of ``learner``, over all processes, in place; moves them to the device.

    Args:
        learner: the module whose forward pass is called.
        model: a HF causal language model with decoder layers.
        device: of this process.
        bfloat16: gather weights rounded to what they are multiplied in, which is half of the bytes; parts, gradients
            and moments stay float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    # Caches of DTensor keep the mesh to the end, and this the group, whose threads would outlive
    # `processes.leave_at_exit`; later versions of torch may hold it elsewhere: a test looks for the threads.
    atexit.register(getattr(mesh, "_pg_registry", {}).clear)
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bfloat16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in model.get_decoder().layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(learner, mesh=mesh, mp_policy=policy)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of which each process holds a part; every process must ask."""
    if not _several():
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a full tensor that all processes hold, laid out as ``like`` is."""
    if not _several():
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(tensor, DTensor) or not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def is_spread(tensor: torch.Tensor) -> bool:
    """Whether each process holds a part of it."""
    if not _several():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def write_parts(tensors: Mapping[str, torch.Tensor], directory: Path) -> None:
    """Each process writes what it holds, as safetensors; all of them must call it, and all is written after it."""
    from torch.distributed import checkpoint

    writer = checkpoint.HuggingFaceStorageWriter(str(directory), save_distributed=True)
    checkpoint.save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer)


def read_parts(directory: Path, likes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What ``write_parts`` wrote, by whatever number of processes.

    Args:
        directory: of the parts.
        likes: by name, or by what a name begins with before its last slash: what a tensor of that shape is laid out
            like; all others come back whole.
    """
    from torch.distributed import checkpoint

    reader = checkpoint.HuggingFaceStorageReader(str(directory))
    tensors: dict[str, torch.Tensor] = {}
    for name, found in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(found, checkpoint.metadata.TensorStorageMetadata), "nothing else was written"
        like, dtype = likes.get(name, likes.get(name.rpartition("/")[0])), found.properties.dtype
        if like is not None and like.shape == found.size:
            tensors[name] = torch.empty_like(like.detach(), dtype=dtype)
        else:
            tensors[name] = torch.empty(found.size, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process is meant to read alone
        checkpoint.load(tensors, storage_reader=reader, no_dist=not _several())
    return tensors


def on_cpu(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Full tensors in main memory; every process must ask, and those that do not ``keep`` get nothing."""
    kept = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            kept[name] = full.cpu().contiguous()
    return kept


def rebuilt(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], device: torch.device) -> PreTrainedModel:
    """A model of its own, on one device, of the same configuration and with these weights (all of its parameters)."""
    fresh = type(model)(model.config)
    parameters = dict(fresh.named_parameters())
    assert parameters.keys() == weights.keys()
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)
    return fresh.to(device).eval()  # type: ignore[arg-type]


def _several() -> bool:
    """Whether there are processes to share with; without them nothing of torch.distributed is loaded."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
