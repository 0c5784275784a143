"""What the gateway process owns."""

import os
from pathlib import Path

import pytest

from genrecall.errors import ConfigError
from genrecall.serve.gateway import claim


def test_a_state_belongs_to_one_service(tmp_path: Path) -> None:
    held = claim(tmp_path / "state")
    with pytest.raises(ConfigError, match="another service"):
        claim(tmp_path / "state")
    os.close(held)
    os.close(claim(tmp_path / "state"))
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
