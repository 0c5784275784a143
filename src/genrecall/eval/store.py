"""Evaluations on disk: figures as JSON, and beside them what each case got, so that runs can be merged and compared.

``eval.json`` holds everything a reader wants; ``eval.npz`` (compressed, no pickle) the ranks, or the gains where a case
has several relevant items, the confidences, the users and the slices. The JSON names the checksum of its npz.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genrecall.artifacts import sha256
from genrecall.errors import ArtifactError
from genrecall.eval.evaluation import ChannelResult, Evaluation, summarise
from genrecall.eval.metrics import gains
from genrecall.eval.protocol import Protocol, Rules
from genrecall.eval.search import SearchProtocol

NAME = "eval.json"
_KINDS: dict[str, Any] = {"next item": Protocol, "search": SearchProtocol}


def save(evaluation: Evaluation, file: Path, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write ``file`` and its npz.

    Args:
        evaluation: of one run or of several.
        file: the JSON; the npz gets its name with another suffix.
        facts: keys to put first into the JSON, for example ``bundle`` and ``hardware``.

    Returns:
        What the JSON holds.
    """
    arrays: dict[str, np.ndarray] = {"users": evaluation.users}
    for group, parts in evaluation.masks.items():
        codes = np.full(evaluation.num_cases, -1, np.int8)
        for code, mask in enumerate(parts.values()):
            codes[mask] = code
        arrays[f"slice/{group}"] = codes
    for name, result in evaluation.results.items():
        if result.ranks is not None:
            arrays[f"ranks/{name}"] = result.ranks.astype(np.uint16)
        else:
            arrays[f"gains/{name}"] = result.gains
        if result.confidence is not None:
            arrays[f"confidence/{name}"] = result.confidence
    cases = file.with_suffix(".npz")
    np.savez_compressed(cases, **arrays)  # type: ignore[arg-type]
    stored = {
        name: {"log_scores": result.log_scores, "invalid_sid_rate": result.invalid_sid_rate}
        for name, result in evaluation.results.items()
    }
    told = {
        **(facts or {}),
        **evaluation.to_dict(),
        "channels": stored,
        "cases_file": {"name": cases.name, "sha256": sha256(cases)},
    }
    file.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return told


def load(path: Path) -> tuple[Evaluation, dict[str, Any]]:
    """Read an evaluation back: a JSON, or a directory with ``eval.json``; also returns the JSON itself."""
    file = path / NAME if path.is_dir() else path
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        rules, stored, cases = told["protocol"], told["channels"], file.with_name(told["cases_file"]["name"])
    except FileNotFoundError:
        raise _unusable(file, "no such file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(file, f"{type(error).__name__}: {error}") from None
    if not cases.is_file() or sha256(cases) != told["cases_file"]["sha256"]:
        raise _unusable(file, f"{cases.name} is {'of another evaluation' if cases.is_file() else 'missing'}")
    protocol: Rules = _KINDS[rules["kind"]].from_dict(rules)
    with np.load(cases) as arrays:
        masks = {
            group: {part: arrays[f"slice/{group}"] == code for code, part in enumerate(parts)}
            for group, parts in told["slices"].items()
        }
        evaluation = Evaluation(
            protocol=protocol,
            part=rules["part"],
            num_items=rules["items"],
            users=arrays["users"],
            cases=rules["cases_digest"],
            unreachable=rules["unreachable_cases"],
            masks=masks,
            results={name: _result(name, told, arrays, protocol, masks) for name in stored},
            resamples=rules["resamples"],
            seed=rules["seed"],
            readings=rules["readings"],
            runs=tuple(told["runs"]),
        )
    return evaluation, told


def _result(
    name: str, told: dict[str, Any], arrays: Mapping[str, np.ndarray], protocol: Rules, masks: Any
) -> ChannelResult:
    lists = dict(told["lists"][name])
    ranks = arrays.get(f"ranks/{name}")
    found = arrays[f"gains/{name}"] if ranks is None else gains(ranks, protocol.ks).astype(np.float32)
    return summarise(
        name,
        found,
        metrics=protocol.metric_names(),
        users=arrays["users"],
        masks=masks,
        seconds=lists.pop("seconds"),
        lists=lists,
        resamples=told["protocol"]["resamples"],
        seed=told["protocol"]["seed"],
        ranks=None if ranks is None else ranks.astype(np.int32),
        confidence=arrays.get(f"confidence/{name}"),
        **told["channels"][name],
    )


def _unusable(file: Path, seen: str) -> ArtifactError:
    return ArtifactError(
        f"{file} is no evaluation that can be read back",
        seen=seen,
        allowed="an eval.json with the eval.npz of the same run beside it",
        fix="run `genrecall eval` again, and keep both files together",
    )
