"""One model on several ranks (gloo): the lists of one rank and of the reference, on every rank; all end together.

A process of its own leads, because torch.distributed would stay in this one. It answers and then waits to be killed;
every rank's results are compared bit by bit there, lists are compared here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrecall.engine import reference
from genrecall.engine.config import Budgets, EngineConfig, Parallel
from genrecall.engine.device.architecture import Architecture
from genrecall.engine.device.decoder import Decoder
from genrecall.engine.device.parallel import Group
from genrecall.engine.device.sequence import ByTokens
from genrecall.engine.device.shards import Checkpoint, Shard
from genrecall.engine.engine import Engine
from genrecall.engine.host.request import Answer, Request
from genrecall.engine.ranks import Leader
from genrecall.engine.worker.frames import Frame, encode
from genrecall.errors import ConfigError
from genrecall.index.trie import Trie
from genrecall.sid.space import SidSpace
from tests.engine.agreement import assert_same
from tests.engine.models import make_model, sid_tokens
from tests.engine.test_shipped import SPACE, ask, catalog, histories

ROOT = Path(__file__).parents[2]
# Heads and KV heads: 4 and 2; 4 and 1; 4 and 1 with every bias. Of two ranks or four, some share a KV head.
MODELS = ("qwen3_tied", "qwen2", "llama_bias")
BY_TOKENS = {f"{name} by tokens": name for name in ("qwen3_tied", "llama_bias")}
WAYS: dict[str, dict[str, Any]] = {
    "library": {"all_reduce": "library"},
    "by tokens": {"sequence_tokens": 24},
    "one shot": {"all_reduce": "one_shot"},
    "levels without forced beams": {"forced": "skip"},
}
"""``Parallel``'s settings, and ``forced``."""
SWAPPED = (3, 90)
SEED = 7
ENDS_WITHIN_S = 30.0
"""On a machine that does other things; alone it is less than a second."""


def config(ranks: int, name: str, tokens: int = 0) -> EngineConfig:
    """One of the models runs as it does on a GPU: forced levels, too, in static shapes."""
    budgets = Budgets(page_tokens=8, requests=5, filters=2, kv_tokens=600, catalog_headroom=3.0)
    parallel = Parallel(ranks=ranks, sequence_tokens=tokens)
    forced = "run" if name == "qwen2" else "skip"
    return EngineConfig(device="cpu", dtype="float32", forced=forced, budgets=budgets, max_rows=70, parallel=parallel)


def rounds(trie: Trie) -> list[list[Request]]:
    """Mixed widths and filters; the second round finds pages of the first."""
    longer = [[*prompt, 3, 1, 4] for prompt in histories(1)]
    return [ask(histories(1), trie), ask(longer, trie)]


def play(ranks: int, directory: Path) -> None:
    """What the leading process does."""
    told: dict[str, Any] = {}
    for name in MODELS:
        engine = Engine(make_model(name), catalog(0), sid_tokens(SPACE.codes), config(ranks, name))
        told[name] = scenario(engine)
        engine.close()
    make_model(MODELS[0]).save_pretrained(directory / "model")
    engine = Engine(Checkpoint(directory / "model"), catalog(0), sid_tokens(SPACE.codes), config(ranks, "files"))
    told["files"] = scenario(engine)
    told["pids"] = engine.loop.runner.leader.pids  # type: ignore[attr-defined]
    for told_as, name in BY_TOKENS.items():
        with counted(ByTokens, "read") as calls, counted(Decoder, "prefill") as every:
            engine = Engine(make_model(name), catalog(0), sid_tokens(SPACE.codes), config(ranks, name, tokens=24))
            told[told_as] = {**scenario(engine), "by_tokens": calls, "read": every}
        engine.close()
    told["host tier"] = tier_scenario(Engine(make_model(MODELS[0]), catalog(0), sid_tokens(SPACE.codes), tier(ranks)))
    (directory / "told.json.part").write_text(json.dumps(told))
    (directory / "told.json.part").rename(directory / "told.json")
    time.sleep(600)


def play_on_gpus(ranks: int, directory: Path) -> None:
    """The same requests until their graphs were captured and replayed, however ranks add and read."""
    told: dict[str, Any] = {}
    for way, more in WAYS.items():
        before, spread = config(ranks, "qwen3_tied"), dict(more)
        forced = spread.pop("forced", "run")
        plain = replace(before, device="cuda", forced=forced, parallel=Parallel(ranks=ranks, **spread))
        engine = Engine(make_model(), catalog(0), sid_tokens(SPACE.codes), plain)
        runner: Any = engine.loop.runner
        answers = [engine.generate(ask(histories(1), catalog(0), users=False)) for _ in range(5)]
        told[way] = {
            "answers": [listed(answer) for answer in answers[-1]],
            "equal_on_every_rank": runner.compare(),
            "graphs": [runner.graphs.captured, runner.graphs.replayed],
        }
        engine.close()
    (directory / "told.json.part").write_text(json.dumps(told))
    (directory / "told.json.part").rename(directory / "told.json")
    time.sleep(600)


def scenario(engine: Engine) -> dict[str, Any]:
    runner: Any = engine.loop.runner
    answers, equal = [], []
    for requests in rounds(catalog(0)):
        answers.append([listed(answer) for answer in engine.generate(requests)])
        equal.append(runner.compare())
    scores = engine.score(requests, [sids for sids, _ in answers[-1]])
    equal.append(runner.compare())
    sampled = engine.generate([Request(tokens=tuple(histories(1)[0]), beam=9, seed=SEED)])
    engine.swap(catalog(*SWAPPED))
    engine.purge("user 0")
    swapped = engine.generate(rounds(catalog(*SWAPPED))[0])
    equal.append(runner.compare())
    return {
        "answers": answers,
        "hits": engine.loop.scheduler.cache.hit_tokens,
        "scores": [one.tolist() for one in scores],
        "sampled": [listed(answer) for answer in sampled],
        "swapped": [listed(answer) for answer in swapped],
        "equal_on_every_rank": equal,
    }


@contextlib.contextmanager
def counted(owner: Any, name: str) -> Iterator[list[int]]:
    """Rows of the first argument of every call of a method."""
    method, calls = getattr(owner, name), []

    def told(self: Any, x: Any, *rest: Any) -> Any:
        calls.append(len(x))
        return method(self, x, *rest)

    setattr(owner, name, told)
    try:
        yield calls
    finally:
        setattr(owner, name, method)


def tier(ranks: int) -> EngineConfig:
    """Pages for two users on the device; the others' wait in host memory."""
    before = config(ranks, MODELS[0])
    budgets = replace(before.budgets, kv_tokens=96, host_kv_tokens=400)
    return replace(before, budgets=budgets, max_prompt_tokens=64)


def tier_requests() -> list[Request]:
    """Three visits of six users."""
    prompts = [(*prompt[:40], 3) for prompt in histories(1)]
    return [Request(tokens=tokens, beam=9, user=f"user {user}") for user, tokens in enumerate(prompts)] * 3


def tier_scenario(engine: Engine) -> dict[str, Any]:
    """One after the other, then a few at once; pages move on every rank, and nothing is left of users at last."""
    runner: Any = engine.loop.runner
    answers, equal = [], []
    for request in tier_requests():
        answers.append(listed(engine.generate([request])[0]))
        equal.append(runner.compare())
    scores = engine.score(tier_requests()[:2], [sids for sids, _ in answers[:2]])
    equal.append(runner.compare())
    kept = runner.remains()
    for user in range(6):
        engine.purge(f"user {user}")
    return {
        "answers": answers,
        "scores": [one.tolist() for one in scores],
        "equal_on_every_rank": equal,
        "onboarded": engine.loop.scheduler.cache.onboarded_tokens,
        "remains": [kept, runner.remains()],
    }


def listed(answer: Answer) -> tuple[list[Any], list[float]]:
    return [list(sid) for sid in answer.sids], list(answer.scores)


@dataclass
class Played:
    told: dict[str, Any]
    leader: subprocess.Popen[bytes]


def start(ranks: int, directory: Path, function: str = "play") -> Played:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    script += "from pathlib import Path\nfrom tests.engine import test_parallel\n"
    script += f"test_parallel.{function}({ranks}, Path(sys.argv[1]))"
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    leader = subprocess.Popen(
        [sys.executable, "-c", script, str(directory)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    until = time.monotonic() + 300
    while not (directory / "told.json").exists():
        assert leader.poll() is None, "the leading process failed; see its words above"
        assert time.monotonic() < until
        time.sleep(0.05)
    return Played(json.loads((directory / "told.json").read_text()), leader)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    played = start(2, tmp_path_factory.mktemp("two"))
    yield played
    played.leader.kill()
    played.leader.wait()


def check(told: dict[str, Any], name: str) -> None:
    assert all(told["equal_on_every_rank"])
    model, found = make_model(name), found_alone(name)
    for requests, answers, ours in zip(rounds(catalog(0)), told["answers"], found["answers"], strict=True):
        for request, answer, one in zip(requests, answers, ours, strict=True):
            assert answer[0] == one[0]
            expected = reference.generate(model, catalog(0), sid_tokens(SPACE.codes), request)
            assert_same(as_answer(answer, expected.short), expected)
    assert told["hits"] == found["hits"] > 0
    assert [sids for sids, _ in told["sampled"]] == [sids for sids, _ in found["sampled"]]
    for requests, answer in zip(rounds(catalog(*SWAPPED))[0], told["swapped"], strict=True):
        expected = reference.generate(model, catalog(*SWAPPED), sid_tokens(SPACE.codes), requests)
        assert_same(as_answer(answer, expected.short), expected)
    for scores, (_, expected_scores) in zip(told["scores"], told["answers"][-1], strict=True):
        assert scores == pytest.approx(expected_scores, abs=1e-4)


@cache
def found_alone(name: str) -> dict[str, Any]:
    engine = Engine(make_model(name), catalog(0), sid_tokens(SPACE.codes), config(1, name))
    engine.loop.runner.compare = lambda: True  # type: ignore[attr-defined]
    return scenario(engine)


def as_answer(answer: tuple[list[list[int]], list[float]], short: bool) -> Answer:
    return Answer(sids=[tuple(sid) for sid in answer[0]], scores=answer[1], short=short)


def gone(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


def wait_until(done) -> None:
    until = time.monotonic() + ENDS_WITHIN_S
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("name", [*MODELS, "files"])
def test_two_ranks_answer_as_one(two, name):
    check(two.told[name], MODELS[0] if name == "files" else name)


@pytest.mark.parametrize("told_as", BY_TOKENS)
def test_prompts_shared_by_tokens_are_read_as_by_one(two, told_as):
    check_by_tokens(two.told[told_as], BY_TOKENS[told_as])


def check_by_tokens(told: dict[str, Any], name: str) -> None:
    """Some batches go one way, some the other, and prompts that one way wrote are continued by the other."""
    check(told, name)
    assert told["by_tokens"] == [tokens for tokens in told["read"] if tokens >= 24]
    assert 0 < len(told["by_tokens"]) < len(told["read"])


def check_tier(told: dict[str, Any]) -> None:
    """As one rank answers, which knows nothing of a host tier."""
    assert all(told["equal_on_every_rank"])
    alone = Engine(make_model(MODELS[0]), catalog(0), sid_tokens(SPACE.codes), config(1, MODELS[0]))
    expected = [listed(answer) for answer in alone.generate(tier_requests())]
    assert [sids for sids, _ in told["answers"]] == [sids for sids, _ in expected]
    for (_, scores), (_, ours) in zip(told["answers"], expected, strict=True):
        assert scores == pytest.approx(ours, abs=1e-4)
    for scores, (_, ours) in zip(told["scores"], expected, strict=False):
        assert scores == pytest.approx(ours, abs=1e-4)
    assert told["onboarded"] > 0
    (kept_by_rank, left_by_rank) = told["remains"]
    assert all(kept_by_rank)
    assert not any(left_by_rank)


def test_pages_move_to_the_host_and_back_on_every_rank(two):
    check_tier(two.told["host tier"])


def test_a_rank_that_dies_takes_the_others_along(two):
    os.kill(two.told["pids"][0], signal.SIGKILL)
    assert two.leader.wait(ENDS_WITHIN_S) == 70


@pytest.mark.parametrize(
    ("reached", "invariant", "way"), [(True, False, "one_shot"), (True, True, "library"), (False, False, "library")]
)
def test_ranks_sum_by_one_shot_where_every_gpu_reaches_all_others(monkeypatch, reached, invariant, way):
    group = Group.__new__(Group)
    group.device, group.shard = torch.device("cuda:2"), Shard(rank=1, ranks=3)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda *two: reached or two != (3, 1))
    monkeypatch.setattr(group, "_one_shot", lambda most, dtype: "one_shot")
    found = group.sum(Parallel(ranks=3), torch.bfloat16, invariant=invariant)
    assert ("one_shot" if found == "one_shot" else "library") == way


@pytest.mark.parametrize("closed", [True, False])
def test_telling_a_rank_that_is_gone_ends_all(monkeypatch, closed):
    """No word reaches whoever waits for an answer: this process ends at once, as when the rank's end was seen."""
    read, write = os.pipe()
    leader, ended = Leader.__new__(Leader), []
    leader._children = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with open(read, "rb", buffering=0) as mine, open(write, "wb", buffering=0) as pipe:
        leader._pipes = [pipe]
        if closed:
            mine.close()
        leader.tell(encode(Frame(head={"kind": "end"})))
        assert ended == ([70] if closed else [])
        assert closed or mine.read(8)


@pytest.mark.ranks
def test_four_ranks_answer_as_one_and_end_with_the_first(tmp_path):
    played = start(4, tmp_path)
    try:
        for name in MODELS:
            check(played.told[name], MODELS[0] if name == "files" else name)
        for told_as, name in BY_TOKENS.items():
            check_by_tokens(played.told[told_as], name)
        check_tier(played.told["host tier"])
    finally:
        played.leader.kill()
        played.leader.wait()
    wait_until(lambda: all(map(gone, played.told["pids"])))


@pytest.mark.gpu
@pytest.mark.parametrize("ranks", [2, 4])
def test_gpus_answer_as_the_reference(tmp_path, ranks):
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"fewer than {ranks} GPUs on this machine")
    played = start(ranks, tmp_path, "play_on_gpus")
    played.leader.kill()
    played.leader.wait()
    for way in WAYS:
        told = played.told[way]
        assert told["equal_on_every_rank"], way
        assert min(told["graphs"]) > 0, way
        for request, answer in zip(ask(histories(1), catalog(0)), told["answers"], strict=True):
            expected = reference.generate(make_model(), catalog(0), sid_tokens(SPACE.codes), request)
            assert_same(as_answer(answer, expected.short), expected, 1e-3)


def test_heads_that_cannot_be_shared_are_refused():
    shape = Architecture.read(make_model("qwen3_tied"))
    assert [Shard(rank=3, ranks=4).of(shape).heads, Shard(rank=3, ranks=4).of(shape).kv_heads] == [1, 1]
    with pytest.raises(ConfigError, match="heads cannot be shared"):
        Shard(ranks=3).of(shape)
    with pytest.raises(ConfigError, match="layer of the model"):
        Shard(ranks=4).even(90)
    with pytest.raises(ConfigError, match="spread like this"):
        Parallel(ranks=2, all_reduce="carrier pigeon")
    with pytest.raises(ConfigError, match="spread like this"):
        Parallel(ranks=7, sequence_tokens=2048)
    with pytest.raises(ConfigError, match="shared by tokens"):
        EngineConfig(batch_invariant=True, parallel=Parallel(ranks=2, sequence_tokens=2048))
    with pytest.raises(ConfigError, match="are rounded"):
        EngineConfig(batch_invariant=True, parallel=Parallel(ranks=2, all_reduce="one_shot"))


def test_ranks_that_share_a_kv_head_read_the_same_rows():
    rows = [Shard(rank=rank, ranks=4).keys(32, 2) for rank in range(4)]
    assert rows == [slice(0, 16), slice(0, 16), slice(16, 32), slice(16, 32)]
    assert [Shard(rank=rank, ranks=2).keys(64, 4) for rank in range(2)] == [slice(0, 32), slice(32, 64)]


def test_a_directory_answers_as_the_model_in_memory(tmp_path):
    model = make_model("qwen2")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    trie = Trie.build(SidSpace(SPACE.codes), np.random.default_rng(0).integers(0, 5, (40, 3)).astype(np.int32))
    request = [Request(tokens=(1, 2, 3, 4), beam=20)]
    held, read = (
        Engine(source, trie, sid_tokens(SPACE.codes), config(1, "files")).generate(request)[0]
        for source in (model, Checkpoint(tmp_path))
    )
    assert (held.sids, held.scores) == (read.sids, read.scores)
