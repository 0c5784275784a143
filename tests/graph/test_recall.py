"""GenRecall answers what the generative channel answers, and survives everything that happens to engines."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.graph.peer import EnginePeer, FakePeer, answer, death, garbage, refusal, silence

pytestmark = pytest.mark.tf

PATIENT_MS = 20_000.0


@pytest.fixture(scope="module")
def shop(run: Path):
    from genrecall import Recommender

    return Recommender.load(run / "bundle", device="cpu")


@pytest.fixture(scope="module")
def tf():
    from genrecall.graph.runtime import tensorflow

    return tensorflow()


def rows(shop, count: int, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[shop.items.ids[i] for i in rng.integers(0, len(shop.items), 1 + n % 9)] for n in range(count)]


def asked(pieces, histories, **options):
    from genrecall.graph.runtime import tensorflow

    tf = tensorflow()
    items = pieces.items_of(tf.ragged.constant(histories, dtype=tf.string))
    return pieces.recall(pieces.prompts(items), **{"k": 10, "deadline_ms": PATIENT_MS, "exclude": items, **options})


def toy(engines: list[Path], *, bundle: str = "", items_per_sid: int | None = None):
    """Six items, of which 1 and 4 share a SID and 4 has more events."""
    from genrecall.graph.retrieval import Retrieval
    from genrecall.prompt.layout import Layout

    sids = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 1], [2, 2]], np.int32)
    return Retrieval(
        item_ids=list("abcdef"), written=[str(sid) for sid in sids.tolist()], sids=sids,
        counts=np.array([0, 1, 0, 0, 5, 0]), layout=Layout(head=(7,), pieces=sids, max_items=9), bundle=bundle, beam=2,
        items_per_sid=items_per_sid, engines=list(map(str, engines)),
    )  # fmt: skip


def one(graph, *, k=3, deadline_ms=2000.0, **options):
    found = asked(graph, [["a"]], k=k, deadline_ms=deadline_ms, exclude=None, **options)
    return found.items.numpy()[0].tolist(), int(found.status[0])


def test_lists_are_those_of_the_channel_bit_for_bit(shop, pieces):
    for history in rows(shop, 12):
        found = asked(pieces, [history])
        wanted = shop.recommend(history, k=10)
        answered = shop.generative.answer([_query(shop, history)], 10)[0]
        items, scores = shop.generative.expand(answered, _query(shop, history), 10)
        assert found.status.numpy().tolist() == [0]
        assert found.items.numpy()[0].tolist() == items
        assert found.scores.numpy()[0].tobytes() == np.array(scores, np.float32).tobytes()
        assert [i.decode() for i in pieces.ids_of(found.items).numpy()[0]] == [i.item_id for i in wanted.items]


def _query(shop, history):
    from genrecall.recall.channel import Query

    indices = np.array([shop.items.index[item] for item in history], np.int32)
    return Query(history=indices, exclude=np.unique(indices))


def test_a_batch_answers_as_its_rows_do_and_from_many_threads(shop, pieces):
    histories = rows(shop, 24, seed=3)
    together = asked(pieces, histories, k=7)
    alone = [asked(pieces, [history], k=7) for history in histories]
    assert together.items.numpy().tolist() == [one.items.numpy()[0].tolist() for one in alone]
    np.testing.assert_allclose(together.scores, np.concatenate([one.scores for one in alone]), atol=1e-5)
    found: list = [None] * 4

    def run(place: int) -> None:
        found[place] = [asked(pieces, [history], k=7).items.numpy()[0].tolist() for history in histories[place::4]]

    threads = [threading.Thread(target=run, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n % 4][n // 4] for n in range(24)] == together.items.numpy().tolist()


def test_whoever_waits_for_an_engine_holds_no_thread(tf, tmp_path):
    """One graph asks more often than there are threads to run it; nothing is answered before all of it is asked."""
    calls = 2 * (tf.config.threading.get_inter_op_parallelism_threads() or os.cpu_count() or 1) + 4
    held = []

    def once_all_are_there(peer, frame, writer):
        held.append((frame, writer))
        if len(held) == calls:
            for one, back in held:
                answer([(0, 0), (1, 0)])(peer, one, back)
            held.clear()

    with FakePeer(tmp_path / "engine.sock", once_all_are_there) as peer:
        graph = toy([peer.socket])

        def all_at_once(items):
            prompts = tf.RaggedTensor.from_row_splits(items, [0, tf.size(items)], validate=False)
            return tf.stack([graph.recall(prompts, k=2, deadline_ms=PATIENT_MS).status for _ in range(calls)])

        # Unlike tf.function, this lets operators with state run beside each other.
        all_at_once = tf.compat.v1.wrap_function(all_at_once, [tf.TensorSpec([None], tf.int32)])
        assert all_at_once(tf.constant([1, 2], tf.int32)).numpy().ravel().tolist() == [0] * calls


def test_python_stands_in_with_the_same_lists(shop, pieces, monkeypatch):
    from genrecall.graph import ops

    histories = rows(shop, 5, seed=5)
    compiled = asked(pieces, histories)
    monkeypatch.setattr(ops, "compiled", lambda: None)
    python = asked(pieces, histories)
    assert python.items.numpy().tolist() == compiled.items.numpy().tolist()
    assert python.status.numpy().tolist() == compiled.status.numpy().tolist()
    np.testing.assert_allclose(python.scores, compiled.scores, atol=1e-5)


def test_items_of_one_sid_come_in_order_and_within_the_cap(tmp_path):
    with FakePeer(tmp_path / "s", answer([(0, 1), (9, 9), (2, 2)])) as peer:
        graph = toy([peer.socket])
        assert one(graph, k=4) == ([4, 1, 5, -1], 0)  # the SID that nobody owns is left out
        assert one(graph, k=1) == ([4], 0)
        assert one(toy([peer.socket], items_per_sid=1)) == ([4, 5, -1], 0)
        found = asked(graph, [["a"]], k=3, exclude=graph.items_of([["e", "nobody"]]))
        assert found.items.numpy().tolist() == [[1, 5, -1]]
        assert [head["items"] for head in peer.asked] == [None, None, None, 6]
        assert [head["beam"] for head in peer.asked] == [4, 2, 3, 3]


@pytest.mark.parametrize("python", [False, True])
def test_the_models_state_comes_along_where_it_is_asked_for(tmp_path, python, monkeypatch):
    from genrecall.graph import ops

    if python:
        monkeypatch.setattr(ops, "compiled", lambda: None)
    with FakePeer(tmp_path / "s", answer([(0, 0)], state=[1.0, 2.0, 3.0])) as peer:
        graph = toy([peer.socket])
        assert asked(graph, [["a"]], k=1, exclude=None).state.shape == (1, 0)
        assert asked(graph, [["a"]], k=1, exclude=None, state_width=3).state.numpy().tolist() == [[1.0, 2.0, 3.0]]
        assert np.isnan(asked(graph, [["a"]], k=1, exclude=None, state_width=4).state).all(), "another width is none"


def test_users_and_deadlines_travel(tmp_path, tf):
    with FakePeer(tmp_path / "s", answer([(0, 0)])) as peer:
        graph = toy([peer.socket])
        users = tf.constant(['Zoë "q" \\ \n', ""])
        found = asked(graph, [["a"], ["b"]], k=1, deadline_ms=[5000.0, 0.0], exclude=None, users=users)
        assert found.status.numpy().tolist() == [0, 0]
        first, second = sorted(peer.asked, key=lambda head: head["id"])
        assert (first["user"], second["user"]) == ('Zoë "q" \\ \n', None)
        assert 0 < first["timeout_s"] <= 5.0
        assert second["timeout_s"] is None
        assert one(graph, users=tf.constant([b"\xff no text"])) == ([-1, -1, -1], 3)


def test_a_deadline_is_kept_and_told_to_the_engine(tmp_path):
    with FakePeer(tmp_path / "s", silence) as peer:
        begun = time.monotonic()
        assert one(toy([peer.socket]), deadline_ms=80.0) == ([-1, -1, -1], 1)
        assert 0.08 <= time.monotonic() - begun < 5
        _until(lambda: peer.cancelled == [peer.asked[0]["id"]])
    with FakePeer(tmp_path / "t", refusal) as peer:
        assert one(toy([peer.socket])) == ([-1, -1, -1], 1)


def test_cancelling_cancels_in_the_engine(tmp_path, tf):
    from tensorflow.python.eager import cancellation

    with FakePeer(tmp_path / "s", silence) as peer:
        graph = toy([peer.socket])
        function = tf.function(lambda ids: graph.recall(graph.prompts(graph.items_of(ids)), k=2).items)
        traced = function.get_concrete_function(tf.TensorSpec([None, None], tf.string))
        manager = cancellation.CancellationManager()
        outcome: list = []

        def call() -> None:
            try:
                outcome.append(manager.get_cancelable_function(traced)(tf.constant([["a"], ["b"]])))
            except tf.errors.CancelledError as error:
                outcome.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        _until(lambda: len(peer.asked) == 2)
        manager.start_cancel()
        thread.join(10)
        assert isinstance(outcome[0], tf.errors.CancelledError)
        _until(lambda: sorted(peer.cancelled) == sorted(head["id"] for head in peer.asked))
        assert one(graph, deadline_ms=30.0)[1] == 1, "the next call goes on"


def test_an_engine_that_is_lost_is_found_again(tmp_path):
    graph = toy([tmp_path / "s"])
    assert one(graph) == ([-1, -1, -1], 2), "nobody there"
    with FakePeer(tmp_path / "s", answer([(0, 0)])):
        assert one(graph, k=1) == ([0], 0)
    assert one(graph) == ([-1, -1, -1], 2), "gone"
    with FakePeer(tmp_path / "s", answer([(1, 0)])):
        assert one(graph, k=1) == ([2], 0)
    with FakePeer(tmp_path / "s", death) as peer:
        assert one(graph) == ([-1, -1, -1], 2)
        assert len(peer.asked) == 2, "asked twice and no more"
    with FakePeer(tmp_path / "s", garbage):
        assert one(graph) == ([-1, -1, -1], 2), "half a frame is a lost engine"


def test_two_engines_share_the_work_and_stand_in_for_each_other(tmp_path, tf):
    with FakePeer(tmp_path / "1", answer([(0, 0)])) as first:
        with FakePeer(tmp_path / "2", answer([(0, 0)])) as second:
            graph = toy([first.socket, second.socket])
            for _ in range(8):
                assert one(graph, k=1) == ([0], 0)
            assert (len(first.asked), len(second.asked)) == (4, 4)
            users = tf.constant(["somebody"])
            for _ in range(4):
                one(graph, k=1, users=users)
            assert {len(first.asked), len(second.asked)} == {4, 8}, "a user stays with one"
        for _ in range(4):
            assert one(graph, k=1) == ([0], 0), "the second is gone, the first answers"
    with FakePeer(tmp_path / "1", death), FakePeer(tmp_path / "2", answer([(1, 1)])):
        for _ in range(4):
            assert one(graph, k=1) == ([3], 0), "the first dies of it, the second answers"


def test_two_engines_of_two_bundles_in_one_graph(tmp_path, tf):
    with FakePeer(tmp_path / "1", answer([(0, 0)])) as first, FakePeer(tmp_path / "2", answer([(1, 1)])) as second:
        one_graph, other = toy([first.socket]), toy([second.socket])

        @tf.function
        def both(ids):
            prompts = one_graph.prompts(one_graph.items_of(ids))
            return one_graph.recall(prompts, k=1).items, other.recall(prompts, k=1).items

        assert [part.numpy().tolist() for part in both(tf.constant([["a"]]))] == [[[0]], [[3]]]


def test_an_engine_of_another_bundle_is_refused(engine: EnginePeer, pieces, shop):
    assert asked(pieces, [["i1"]]).status.numpy().tolist() == [0]
    other = toy([engine.socket], bundle="sha256:another")
    assert one(other) == ([-1, -1, -1], 3)


def test_shapes_that_do_not_fit_are_refused(tmp_path, tf):
    graph = toy([tmp_path / "s"])
    for wrong, what in (
        ({"k": 0}, "k must be 1 to 6"),
        ({"k": 7}, "k must be 1 to 6"),
        ({"users": tf.constant(["a", "b"])}, "users must be empty or one for each"),
        ({"deadline_ms": [1.0, 2.0]}, "deadline_ms must be one"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=what):
            asked(graph, [["a"]], **{"k": 2, "exclude": None, **wrong})
    graph.engines.assign([])
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one socket"):
        one(graph)


def test_a_real_engine_is_killed_and_started_again(run: Path, tmp_path: Path, shop):
    from genrecall.graph.retrieval import Retrieval

    socket = tmp_path / "engine.sock"
    graph = Retrieval.open(run / "bundle", [str(socket)])

    def start() -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "genrecall", "engine", "serve", str(run / "bundle"), "--socket", str(socket),
             "--device", "cpu"],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        return process

    history = rows(shop, 1)[0]
    process = start()
    first = asked(graph, [history])
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert asked(graph, [history]).status.numpy().tolist() == [2]
    process = start()
    try:
        again = asked(graph, [history])
        assert again.items.numpy().tolist() == first.items.numpy().tolist()
    finally:
        process.terminate()
        assert process.wait(120) == 0
    assert not socket.exists()


def _until(holds, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.01)
