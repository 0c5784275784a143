"""Recipes by name: where a public data set's files lie and under which rules its tables are made.

Sizes and rates are never theirs: ``study.suited_to`` reads them off the data, so that a data set without a name gets
the same treatment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

from genrecall import hardware
from genrecall.catalog.config import ImportConfig
from genrecall.catalog.sources.open import open_source
from genrecall.catalog.sources.source import Source
from genrecall.catalog.store import Catalog
from genrecall.errors import ConfigError
from genrecall.recipes.recipe import SplitConfig
from genrecall.recipes.study import Study, suited_to


@dataclass(frozen=True, kw_only=True)
class Named:
    """A data set and its rules.

    Attributes:
        name: of the study.
        source: where its tables come from; None where a catalog is imported already.
        config: of the import.
        split: None chooses by the data.
        window: the most items of a history; None is the default's.
        encoder, fields: of the items' text.
    """

    name: str
    source: Source | None = None
    config: ImportConfig = field(default_factory=ImportConfig)
    split: SplitConfig | None = None
    window: int | None = None
    encoder: str = "minilm"
    fields: str | None = None


_TEMPORAL = SplitConfig(rule="temporal", repeats="first", tie_seed=0, history="removed")


def amazon_beauty() -> Named:
    """Leave-one-out, source order, history removed: the protocol of most published tables."""
    return Named(name="amazon_beauty", split=SplitConfig(tie_seed=None))


def amazon_sports() -> Named:
    """As Beauty; there are no titles, so keywords stand for them."""
    return Named(
        name="amazon_sports", split=SplitConfig(tie_seed=None), config=ImportConfig(columns={"title": "keywords"})
    )


def amazon_office() -> Named:
    """The source's own split, history kept, its last ten items, several targets a user."""
    split = SplitConfig(rule="source", repeats="keep", tie_seed=None, history="kept")
    return Named(name="amazon_office", split=split, window=10)


def online_retail() -> Named:
    """Temporal split, first-time items, ties within an invoice shuffled."""
    return Named(name="online_retail", split=_TEMPORAL)


def movielens_100k() -> Named:
    """Temporal split, first-time items, profiles in the prompt."""
    return Named(name="movielens_100k", split=_TEMPORAL)


_FOLDERS = {
    "amazon_beauty": (amazon_beauty, "amazon-beauty"),
    "amazon_sports": (amazon_sports, "amazon-sports"),
    "amazon_office": (amazon_office, "amazon-office"),
    "online_retail": (online_retail, "online-retail"),
    "movielens_100k": (movielens_100k, "ml-100k"),
}


def resolve(
    recipe: str | None,
    data: Path | None,
    files: Mapping[str, Path | None],
    out: Path,
    config: ImportConfig | None = None,
) -> Named:
    """What a command line asks for.

    Args:
        recipe: a name, or None for files of the user's own.
        data: folder of the recipe's data set, or one that holds that folder.
        files: items, events and users of the user's own.
        out: run directory; a catalog that is there already needs no files.
        config: of the import of the user's own files; a recipe brings its own.
    """
    if config is not None and config != ImportConfig() and (recipe is not None or not any(files.values())):
        raise ConfigError(
            "options of the import without files to import",
            seen=f"--recipe {recipe}" if recipe is not None else "no --items",
            allowed="--items and --events of your own with them",
            fix="leave these options out, or give files without --recipe",
        )
    given = {name: path for name, path in files.items() if path is not None}
    if recipe is None:
        if not given and not (out / "catalog").is_dir():
            raise ConfigError(
                "there is nothing to run on",
                seen=f"no --recipe, no --items, and no catalog in {out}",
                allowed="--recipe NAME --data FOLDER, or --items FILE --events FILE",
                fix="name a recipe or give files",
            )
        source = open_source(files=given) if given else None
        return Named(name=out.name, source=source, config=config or ImportConfig())
    if recipe not in _FOLDERS:
        raise ConfigError("this recipe is unknown", seen=recipe, allowed=", ".join(_FOLDERS), fix="choose one")
    make, folder = _FOLDERS[recipe]
    named = make()
    if given:
        return replace(named, source=open_source(files=given))
    if data is None and recipe == "online_retail":
        with resources.as_file(resources.files("genrecall.recipes") / "online_retail") as embedded:
            return replace(named, source=open_source(embedded))
    if data is None:
        if (out / "catalog").is_dir():
            return named
        raise ConfigError(
            "the recipe needs its data set",
            seen="no --data",
            allowed=f"a folder with items and interactions, or one that holds it as {folder}",
            fix="give --data FOLDER, or --items and --events",
        )
    return replace(named, source=open_source(data / folder if (data / folder).is_dir() else data))


def study_of(named: Named, catalog: Catalog, *, small: bool | None, device: str) -> Study:
    """The study that suits the catalog, under the recipe's rules."""
    catalog.require_events("a study")
    if small is None:
        small = hardware.pick_device(device).type == "cpu"
    study = suited_to(catalog, name=named.name, split=named.split, small=small).on(device)
    if named.window is not None:
        study = study.windowed(named.window)
    return replace(study, encoder=named.encoder, fields=named.fields)
