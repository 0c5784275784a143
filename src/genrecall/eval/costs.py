"""What a channel's making took: training curve, seconds, parameters, machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrecall.eval import charts
from genrecall.eval.document import Block, Facts, Figure, Section


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What making one channel took; None where it is not known, or nothing was trained.

    Attributes:
        train_s: wall seconds of training.
        parameters: of the model.
        device: it was trained on.
    """

    train_s: float | None = None
    parameters: int | None = None
    device: str = ""

    @classmethod
    def of_model(cls, directory: Path, facts: Mapping[str, Any]) -> Cost:
        """From a model's directory (its weights' headers are counted) and the facts of its manifest."""
        machine = facts.get("machine", {})
        device = ", ".join(machine.get("gpus", [])) or machine.get("cpu", "")
        return cls(train_s=facts.get("seconds"), parameters=parameters_in(directory), device=device)

    def cells(self) -> list[str]:
        """Three cells of a table."""
        return [
            "–" if self.train_s is None else f"{self.train_s:,.0f}",
            "–" if self.parameters is None else f"{self.parameters:,}",
            self.device or "–",
        ]


def parameters_in(directory: Path) -> int:
    """Numbers in all safetensors files of a directory; only headers are read."""
    from safetensors import safe_open

    total = 0
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(str(file), framework="numpy") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def training_section(metrics: Path, facts: Mapping[str, Any], *, validation: str | None = None) -> Section:
    """Loss and validation by epoch.

    Args:
        metrics: ``metrics.jsonl``: one JSON object a line with ``epoch`` and ``loss`` or ``validation``.
        facts: of the model's manifest; those that are missing are left out.
        validation: name of the validation metric. Default: Recall@10, by which language models are chosen, or
            NDCG@10, by which models over items are (they count ``events_per_s``).
    """
    validation = validation or ("NDCG@10" if "events_per_s" in facts else "Recall@10")
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    loss = [(line["epoch"], line["loss"]) for line in lines if "loss" in line]
    valid = [(line["epoch"], line["validation"]) for line in lines if "validation" in line]
    written = {
        "epochs": ("epochs", "{:.1f}"),
        "seconds": ("seconds", "{:.0f}"),
        "tokens/s": ("tokens_per_s", "{:,}"),
        "stopped by": ("stopped", "{}"),
        f"best validation {validation}": ("best", "{:.4f}"),
    }
    values = {name: form.format(facts[key]) for name, (key, form) in written.items() if facts.get(key) is not None}
    blocks: list[Block] = [Facts(values=values)] if values else []
    if loss:
        chart = charts.lines({"loss": loss}, x_label="epoch", y_label="nats an item")
        blocks.append(Figure(svg=chart, caption="Training loss."))
    if len(valid) > 1:
        chart = charts.lines({"validation": valid}, x_label="epoch", y_label=validation)
        blocks.append(Figure(svg=chart, caption=f"{validation} on the validation sample."))
    return Section(title="Training", blocks=blocks)
