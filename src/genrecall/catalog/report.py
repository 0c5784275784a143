"""What was found in the input, counted, with examples and what was done with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from genrecall.errors import DataError

EXAMPLES = 5

# name -> (what was found, what was done with it). Problems are what --strict refuses; notes are for information.
PROBLEMS: dict[str, tuple[str, str]] = {
    "item_without_id": ("items without item_id", "left out"),
    "duplicate_item": ("rows that repeat an item_id", "the first row kept, the others left out"),
    "empty_title": ("items with an empty title", "kept; their other columns are their text"),
    "item_without_text": (
        "items without any text",
        "kept; `genrecall embed` needs a text of every item: leave these out with --drop-textless, or give vectors",
    ),
    "unreadable_price": ("prices that are no numbers", "kept, without price"),
    "event_without_user": ("events without user_id", "left out"),
    "event_without_item": ("events without item_id that are no queries", "left out"),
    "event_without_time": ("events without time", "left out"),
    "unknown_item": ("events on items that are not in the items file", "left out"),
    "unknown_kind": ("events of an unknown kind", "left out"),
    "unknown_split": ("events whose split is empty or none of train (history), valid (val, dev), test", "left out"),
    "future": ("events more than a day in the future", "left out"),
    "duplicate_event": ("events that repeat user, item, time, kind and session", "the first kept, the others left out"),
    "unsorted": ("events that stand before an earlier event of their user", "sorted"),
    "single_event_user": ("users with one event", "kept; they train but are never tested"),
    "user_without_id": ("rows of the users file without user_id", "left out"),
    "query_without_text": ("queries without id or text", "left out"),
    "unknown_pair": ("query-item pairs with an unknown query or item", "left out"),
}
NOTES: dict[str, tuple[str, str]] = {
    "unused_column": ("columns not used", "left out"),
    "unused_file": ("files of the directory not used", "left out"),
    "joined_column": ("columns of lists", "joined to one text"),
    "no_events": ("no events file", "the catalog holds items only"),
    "renamed_kind": ("events whose kind has another name here", "kept under our name"),
    "low_rating": ("events below the rating asked for", "left out, as asked for"),
    "textless_item": ("items without any text", "left out with their query pairs, as asked for"),
    "textless_event": ("events on items without any text", "left out with the items, as asked for"),
    "k_core": ("users and items below the k-core asked for", "left out with their events, as asked for"),
    "user_without_events": ("users without events", "kept, with an empty history"),
    "user_without_profile": ("users with events who are not in the users file", "kept, without profile"),
    "item_without_events": ("items without events", "kept"),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of oddity.

    Attributes:
        name: key in PROBLEMS or NOTES.
        count: how often.
        what: what was found, in words.
        action: what was done with it.
        problem: whether ``strict`` refuses it.
        examples: up to five.
    """

    name: str
    count: int
    what: str
    action: str
    problem: bool
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """What an import found.

    Attributes:
        source: format of the input.
        files: file name by table.
        counts: rows read and kept, by table and kind.
        findings: oddities, problems first.
    """

    source: str
    files: dict[str, str]
    counts: dict[str, int]
    findings: tuple[Finding, ...] = ()

    @property
    def problems(self) -> list[Finding]:
        """The findings that ``strict`` refuses."""
        return [finding for finding in self.findings if finding.problem]

    def find(self, name: str) -> int:
        """How often this was found."""
        return sum(finding.count for finding in self.findings if finding.name == name)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ValidationReport:
        """Inverse of ``to_dict``."""
        findings = tuple(Finding(**{**entry, "examples": tuple(entry["examples"])}) for entry in data["findings"])
        return cls(**{**data, "findings": findings})

    @classmethod
    def read(cls, file: Path) -> ValidationReport:
        """Read ``report.json``."""
        return cls.from_dict(json.loads(file.read_text(encoding="utf-8")))

    def write(self, file: Path) -> None:
        """Write ``report.json``."""
        file.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        lines = [f"{self.source}: " + ", ".join(f"{role} {name}" for role, name in self.files.items())]
        lines += [f"  {name:<16} {count:>12,}" for name, count in self.counts.items()]
        for heading, problem in (("problems", True), ("notes", False)):
            chosen = [finding for finding in self.findings if finding.problem is problem]
            lines.append(f"{heading}: {len(chosen) or 'none'}")
            for finding in chosen:
                lines.append(f"  {finding.count:,} {finding.what}: {finding.action}")
                lines += [f"      {example}" for example in finding.examples]
        return "\n".join(lines)

    def require_clean(self) -> None:
        """Refuse (``--strict``) if there is any problem."""
        if self.problems:
            found = self.problems
            raise DataError(
                "the input has problems, and --strict refuses them",
                seen="; ".join(f"{finding.count:,} {finding.what}" for finding in found),
                allowed="input without any of these",
                fix="mend the files (`genrecall data validate` shows examples), or leave out --strict",
            )


@dataclass
class Findings:
    """Collects findings while input is read."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, count: int, examples: Iterable[object] = ()) -> None:
        """Count an oddity ``count`` more times; only as many examples are drawn as are still wanted."""
        assert name in PROBLEMS or name in NOTES, name
        if count == 0:
            return
        self.counts[name] = self.counts.get(name, 0) + int(count)
        kept = self.examples.setdefault(name, [])
        for example in map(str, examples):
            if len(kept) == EXAMPLES:
                break
            if example not in kept:
                kept.append(example)

    def wanted(self, name: str) -> int:
        """How many more examples are wanted."""
        return EXAMPLES - len(self.examples.get(name, ()))

    def report(self, source: str, files: dict[str, str], counts: dict[str, int]) -> ValidationReport:
        """Everything collected, problems first."""
        found = [
            Finding(
                name=name,
                count=self.counts[name],
                what=what,
                action=action,
                problem=name in PROBLEMS,
                examples=tuple(self.examples[name]),
            )
            for name, (what, action) in (PROBLEMS | NOTES).items()
            if name in self.counts
        ]
        return ValidationReport(source=source, files=files, counts=counts, findings=tuple(found))
