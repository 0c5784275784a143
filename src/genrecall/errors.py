"""What users can do wrong, said in four parts.

    GenrecallError
    ├── DataError        input files: columns, types, ids, timestamps
    ├── ConfigError      options that contradict each other or the data
    ├── CapacityError    sizes that cannot hold what is asked (codes, k, window)
    ├── ArtifactError    a directory of ours that is missing, broken or of another kind
    └── DependencyError  an optional package that is not installed

Each carries what went wrong, the value seen, the values allowed and what to do.
"""

from __future__ import annotations


class GenrecallError(Exception):
    """An error that the user can mend. Printed as four lines; exit status 2."""

    exit_code = 2

    def __init__(self, what: str, *, seen: object, allowed: str, fix: str) -> None:
        self.what = what
        self.seen = str(seen)
        self.allowed = allowed
        self.fix = fix
        super().__init__(f"{what}\n  seen:    {self.seen}\n  allowed: {allowed}\n  do:      {fix}")

    @property
    def parts(self) -> dict[str, str]:
        """The four, for another process to raise it again."""
        return {"what": self.what, "seen": self.seen, "allowed": self.allowed, "fix": self.fix}


class DataError(GenrecallError):
    """Input files that cannot be read as items, events, users or queries."""


class ConfigError(GenrecallError):
    """Options that contradict each other or the data."""


class CapacityError(GenrecallError):
    """A size that cannot hold what is asked of it."""


class ArtifactError(GenrecallError):
    """An artifact that is missing, damaged, or of another kind than expected."""


class DependencyError(GenrecallError):
    """An optional package that this action needs and that is not installed."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}",
            seen="not installed",
            allowed=f"any version that the extra [{extra}] admits",
            fix=f"pip install 'genrecall[{extra}]'",
        )
