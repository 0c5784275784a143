"""The words around a history: read from a TOML file, one of ours or the user's own."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from genrecall.errors import ConfigError
from genrecall.prompt.profile import ProfileTemplate
from genrecall.prompt.tasks import TaskTemplate

NAMES = ("compact", "zh", "en")


@dataclass(frozen=True, kw_only=True)
class Template:
    """A prompt is ``[profile sentence] head item joiner item … tail``, and then the model writes a SID.

    A search asks ``[profile sentence] head item joiner item … search_joiner search``, and without any history
    ``[profile sentence] search``.

    Attributes:
        name: for reports.
        head: text before the history; ``head_newest_first`` replaces it for that order where given.
        item: one event, with the places ``{sid}`` and, optionally, ``{title}``.
        joiner: between events.
        tail: the question.
        empty: stands for a history without events.
        search: the question of a search, with the place ``{query}``; without it nothing can be searched.
        search_joiner: between history and search.
        profile: the profile sentence.
        tasks: how items are told by their texts, and texts by their SIDs, while a model learns to read SIDs.
    """

    name: str
    head: str = ""
    head_newest_first: str = ""
    item: str = "{sid}"
    joiner: str = ""
    tail: str = ""
    empty: str = ""
    search: str = ""
    search_joiner: str = ""
    profile: ProfileTemplate = field(default_factory=ProfileTemplate)
    tasks: TaskTemplate = field(default_factory=TaskTemplate)

    def __post_init__(self) -> None:
        if self.item.count("{sid}") != 1:
            raise ConfigError(
                f"the item pattern of template {self.name} must name the SID once",
                seen=self.item,
                allowed="text with one {sid} and, optionally, {title}",
                fix="write for example item = '{title}{sid}'",
            )
        if self.search and self.search.count("{query}") != 1:
            raise ConfigError(
                f"the search pattern of template {self.name} must name the query once",
                seen=self.search,
                allowed="text with one {query}, or none for a template that cannot search",
                fix="write for example search = 'The user searches for: {query}.'",
            )

    @property
    def causal(self) -> bool:
        """Whether the next item's SID follows the history directly, so that every item of a row is a target."""
        return not self.tail and not self.joiner and not self.empty and self.item.startswith("{sid}")

    @property
    def uses_titles(self) -> bool:
        """Whether events show their titles."""
        return "{title}" in self.item

    def texts(self) -> list[str]:
        """The template's own words, for a compact vocabulary."""
        around = [self.head, self.head_newest_first, self.item, self.joiner, self.tail, self.empty]
        words = [*around, self.profile.sentence, self.profile.field, self.profile.joiner, *self.profile.names.values()]
        return [word for word in words if word]

    def task_texts(self) -> list[str]:
        """The words that only searches and alignment tasks say."""
        return [word for word in (self.search, self.search_joiner, *self.tasks.texts()) if word]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the inverse of ``from_dict``."""
        return {
            **asdict(self),
            "profile": {**asdict(self.profile), "names": dict(self.profile.names)},
            "tasks": {**asdict(self.tasks), "names": dict(self.tasks.names)},
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Template:
        """Build from what a template file holds; unknown keys are refused."""
        profile, tasks = raw.get("profile", {}), raw.get("tasks", {})
        _refuse_unknown(raw, cls, "template")
        _refuse_unknown(profile, ProfileTemplate, "template's [profile]")
        _refuse_unknown(tasks, TaskTemplate, "template's [tasks]")
        return cls(**{**raw, "profile": ProfileTemplate(**profile), "tasks": TaskTemplate(**tasks)})


def load_template(name: str | Path) -> Template:
    """One of the templates ``compact``, ``zh``, ``en``, or a path to a TOML file of the same form."""
    path = Path(name)
    if str(name) in NAMES:
        text = resources.files("genrecall.prompt").joinpath("templates", f"{name}.toml").read_bytes()
    elif path.is_file():
        text = path.read_bytes()
    else:
        raise ConfigError(
            "there is no such prompt template",
            seen=name,
            allowed=", ".join(NAMES) + ", or the path of a template file",
            fix="choose another --template",
        )
    try:
        raw = tomllib.loads(text.decode())
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(
            f"the template file {name} cannot be read",
            seen=str(error),
            allowed="TOML such as genrecall's own templates",
            fix="correct the file",
        ) from None
    return Template.from_dict({"name": path.stem, **raw})


def _refuse_unknown(raw: Mapping[str, Any], kind: type, what: str) -> None:
    """All keys are the kind's, and hold texts (or tables, where it has tables)."""
    tables = ("profile", "tasks", "names")
    wrong: list[str] = [] if isinstance(raw, Mapping) else [f"{raw!r} instead of a table"]
    for name, value in {} if wrong else raw.items():
        texts = value.values() if isinstance(value, Mapping) and name == "names" else [value]
        allowed = Mapping if name in tables and texts == [value] else str
        wrong += [f"{name} = {text!r}" for text in texts if not isinstance(text, allowed)]
    if wrong:
        raise ConfigError(
            f"a {what} holds what is no text",
            seen="; ".join(wrong)[:300],
            allowed=f"texts in quotes, and tables for {', '.join(tables)}",
            fix="write it like genrecall's own templates",
        )
    known = [entry.name for entry in fields(kind)]
    unknown = sorted(set(raw) - set(known))
    if unknown:
        raise ConfigError(
            f"unknown keys in a {what}",
            seen=", ".join(unknown),
            allowed=", ".join(known),
            fix="remove or rename them",
        )
