"""What this process can compute on: devices, precision, versions, and one line that goes under every figure."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrecall import processes
from genrecall.errors import ConfigError

if TYPE_CHECKING:
    import torch


_WORKSPACE = {
    "CUBLAS_WORKSPACE_CONFIG": ":0:0",
    "CUBLASLT_WORKSPACE_SIZE": "0",
    "TORCH_CUBLASLT_UNIFIED_WORKSPACE": "0",
}


def pick_device(name: str = "auto") -> torch.device:
    """Resolve ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes the GPU where there is one.

    Under torchrun each process has a GPU of its own.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.world() > 1:
        name = f"cuda:{processes.local_rank()}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if (
        device is None
        or (device.type == "cuda" and not torch.cuda.is_available())
        or device.type not in ("cpu", "cuda")
    ):
        raise ConfigError(
            "this device cannot be used",
            seen=name,
            allowed="auto, cpu" + (", cuda" if torch.cuda.is_available() else " (no CUDA device is visible)"),
            fix="choose another --device, or run `genrecall doctor`",
        )
    return device


def spare_workspace() -> None:
    """Let cuBLAS do without a workspace in this process; for one that runs an engine and trains nothing.

    Given one, cuBLAS clears it before every product of many tiles, and the device waits 6 µs for that: 4% of a batch in
    fp8 on an H100. Without, it takes kernels that need none and are as fast. PyTorch reads this at a process's first
    product or before each, as its version is: to be called before any. What is set already stays.
    """
    for name, value in _WORKSPACE.items():
        os.environ.setdefault(name, value)


def release_cached() -> None:
    """Give GPU memory back that this process keeps but does not use: engines that are opened next size themselves by
    what is free, and others may share the GPU.
    """
    import torch

    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is native: on GPUs since Ampere, on CPUs with AMX or AVX-512 BF16."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return _cpu_flag("amx_bf16") or _cpu_flag("avx512_bf16")


# Dense bf16 matrix products a second, from the makers' data sheets; the first name that fits decides.
_PEAK_FLOPS = (
    ("H200", 989e12),
    ("GH200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H800", 989e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("RTX 4090", 165e12),
    ("A10", 125e12),
)


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 peak of a GPU in FLOP/s; None where it is not known."""
    import torch

    if device.type != "cuda":
        return None
    return stated_flops(torch.cuda.get_device_name(device))


def stated_flops(name: str) -> float | None:
    """Dense bf16 peak of a GPU by its name, in FLOP/s; None where it is not known."""
    return next((peak for known, peak in _PEAK_FLOPS if known in name), None)


def memory_bytes() -> int:
    """Physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe() -> dict[str, Any]:
    """Versions, devices and commit, as recorded with every measurement."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in ("genrecall", "torch", "transformers", "numpy")},
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "gpus": gpus,
        "commit": commit(),
    }


def version_of(package: str) -> str | None:
    """Installed version of a distribution; None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Git commit of this checkout; GENRECALL_COMMIT where it is a copy or an image; None for an installed wheel."""
    if told := os.environ.get("GENRECALL_COMMIT"):
        return told
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None


def _cpu_name() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache
def _cpu_flag(flag: str) -> bool:
    return any(line.startswith("flags") and flag in line.split() for line in _cpuinfo())


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []
