"""A bundle with a fitted fusion: the same files, and how its channels' lists are joined."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from genrecall.artifacts import Artifact, open_artifact, write_artifact
from genrecall.bundle import channels as classic
from genrecall.bundle.export import KIND
from genrecall.recall.fusion import Fusion


def with_fusion(bundle: Path, fusion: Fusion, out: Path, *, report: Mapping[str, Any]) -> Artifact:
    """Write ``bundle`` once more with this fusion, to ``out`` (which may be the same directory).

    Args:
        bundle: to be copied; a fusion that it has is replaced.
        fusion: fitted on lists of the bundle's channels.
        out: directory.
        report: how it was chosen and what each channel adds; stands in the manifest's facts under ``fusion``.
    """
    old = open_artifact(bundle, kind=KIND)
    config = {**old.manifest.config, "fusion": asdict(fusion.config)}
    with write_artifact(out, kind=KIND, config=config, parents=old.manifest.parents) as writer:
        for file in old.manifest.files:
            target = writer.path / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old.path / file, target)
        directory = writer.path / "channels"
        state = {name: np.ascontiguousarray(value) for name, value in fusion.state().items()}
        save_file(state, directory / f"{classic.FUSED}.safetensors")
        settings = json.loads((directory / classic.SETTINGS).read_text(encoding="utf-8"))
        settings[classic.FUSED] = asdict(fusion.config)
        (directory / classic.SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        writer.facts |= {**old.manifest.facts, "fusion": dict(report)}
    return open_artifact(out, kind=KIND)
