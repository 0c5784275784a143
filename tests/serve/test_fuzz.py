"""Whatever the schema allows, or forbids, is answered or refused as the schema says: no 5xx, no violation."""

import itertools
from collections import Counter
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
        found = fuzz(url, key, tmp_path, examples=2, phases="fuzzing")
    _require_sound(found)
    assert found.cases >= 60
    assert found.statuses[503] == 0


@pytest.mark.fuzz
def test_twenty_thousand_requests(run: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    key = add(keys, "fuzzer")
    more = ("--deadline-ms", "3000", "--keys", str(keys))
    statuses: Counter[int] = Counter()
    with serve(run / "bundle", tmp_path / "state", *more) as running:
        for seed in itertools.count():
            # Boundary values are the same every time; what is drawn is not.
            phases = "fuzzing,stateful" if seed else "examples,coverage,fuzzing,stateful"
            found = fuzz(f"http://127.0.0.1:{running.port}", key, tmp_path, examples=100, phases=phases, seed=seed)
            statuses += found.statuses
            print(f"round {seed}: {statuses.total():,} requests: {dict(sorted(statuses.items()))}", flush=True)
            _require_sound(found)
            assert running.is_ready()
            if statuses.total() >= 20_000:
                break
