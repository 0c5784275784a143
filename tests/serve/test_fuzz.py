"""Whatever the schema allows, or forbids, is answered or refused as the schema says: no 5xx, no violation."""

from pathlib import Path

import pytest

from genrecall.serve.http.keys import add
from tests.serve.fuzzing import Fuzzed, fuzz, listening
from tests.serve.process import serve

pytest.importorskip("schemathesis", reason="schemathesis is not installed")


def _require_sound(found: Fuzzed) -> None:
    assert found.code == 0, found.told
    # A service that is briefly not ready, or full, says so with 503; the short form gives it no reason to.
    assert not {status for status in found.statuses if status >= 500 and status != 503}, found.statuses
    assert found.statuses[200] > 0


def test_a_few_requests_of_every_dialect(run: Path, tmp_path: Path) -> None:
    with listening(run, tmp_path) as (url, key):
        found = fuzz(url, key, tmp_path, examples=3, phases="fuzzing")
    _require_sound(found)
    assert found.cases >= 60
    assert found.statuses[503] == 0


@pytest.mark.fuzz
def test_twenty_thousand_requests(run: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    key = add(keys, "fuzzer")
    more = ("--deadline-ms", "3000", "--keys", str(keys))
    with serve(run / "bundle", tmp_path / "state", *more) as running:
        found = fuzz(
            f"http://127.0.0.1:{running.port}",
            key,
            tmp_path,
            examples=1500,
            phases="examples,coverage,fuzzing,stateful",
        )
        assert running.is_ready()
    print(f"{found.cases:,} requests: {dict(sorted(found.statuses.items()))}")
    _require_sound(found)
    assert found.cases >= 20_000
