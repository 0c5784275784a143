"""The operators' parser of frames, under sanitizers: nothing crashes it, and it accepts only what Python's accepts."""

import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrecall.engine.worker.frames import Frame, decode, encode
from genrecall.errors import DataError

pytestmark = [pytest.mark.tf, pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")]
ROOT = Path(__file__).resolve().parents[2]
ARRAYS = st.dictionaries(
    st.sampled_from(["sids", "scores", "tokens"]),
    st.tuples(st.sampled_from(["int32", "float32", "uint8"]), st.lists(st.integers(0, 4), max_size=3)).map(
        lambda told: np.arange(int(np.prod(told[1]))).astype(told[0]).reshape(told[1])
    ),
)
HEADS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["answer", "error", "pong"]), "id": st.integers(-(10**17), 10**17)},
    optional={
        "short": st.booleans(),
        "narrowed": st.booleans(),
        "error": st.text(max_size=20),
        "what": st.text(max_size=20),
        "other": st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=6,
        ),
    },
)

TOKENS = [*'{}[],:"-01 \\é\x00', '"kind"', '"id"', '"arrays"', '"x"', "\\u00", "1e9", ".5", "true", "null", '"int32"']
TOKENS += ["[]", "99999999999999999999"]


class Parser:
    """The compiled parser; one process for all cases."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def __call__(self, data: bytes) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("<I", len(data)) + data)
        self._process.stdin.flush()
        line = self._process.stdout.readline().decode()
        if not line:
            assert self._process.stderr is not None
            pytest.fail("the parser crashed: " + self._process.stderr.read().decode()[:3000])
        return line.rstrip("\n")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(20) == 0, "no leak, no late complaint of a sanitizer"


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parser]:
    program = tmp_path_factory.mktemp("fuzz") / "fuzz_frames"
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         f"-I{ROOT}/src/genrecall/graph/ops", str(ROOT / "tests/graph/fuzz_frames.cc"), "-o", str(program)],
        check=True,
    )  # fmt: skip
    opened = Parser(program)
    yield opened
    opened.close()


def told(frame: Frame) -> str:
    arrays = "".join(
        f" {name}:{array.size}:{int(np.frombuffer(array.tobytes(), np.uint8).sum())}"
        for name, array in frame.arrays.items()
    )
    flags = f"{int(frame.head.get('short', False))} {int(frame.head.get('narrowed', False))}"
    return f"{frame.head['kind']} {frame.head['id']} {flags}{arrays}"


@settings(max_examples=200, deadline=None)
@given(head=HEADS, arrays=ARRAYS)
def test_what_python_writes_is_read(parser: Parser, head, arrays):
    frame = Frame(head=head, arrays=arrays)
    assert parser(encode(frame)) == told(frame)


@settings(max_examples=500, deadline=None)
@given(head=HEADS, arrays=ARRAYS, data=st.data())
def test_damaged_frames_are_refused_or_read_as_python_reads_them(parser: Parser, head, arrays, data):
    content = bytearray(encode(Frame(head=head, arrays=arrays)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
            case "flip":
                content[at] = data.draw(st.integers(0, 255))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 9))]
            case "insert":
                content[at:at] = data.draw(st.binary(max_size=9))
            case "repeat":
                content += content[at : at + 9]
        if not content:
            break
    _same(parser, bytes(content), data.draw(st.booleans()))


@settings(max_examples=500, deadline=None)
@given(
    head=st.lists(
        st.sampled_from(TOKENS),
        max_size=30,
    ),
    body=st.binary(max_size=16),
)
def test_random_heads_are_refused_or_read_as_python_reads_them(parser: Parser, head, body):
    written = "".join(head).encode()
    _same(parser, struct.pack("<II", 4 + len(written) + len(body), len(written)) + written + body, False)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=64))
def test_any_bytes(parser: Parser, data):
    _same(parser, data, False)


def _same(parser: Parser, content: bytes, mend: bool) -> None:
    """The parser refuses, or Python reads the same; ``mend`` makes the first length right."""
    if mend and len(content) >= 8:
        content = struct.pack("<I", len(content) - 4) + content[4:]
    found = parser(content)
    if found == "refused":
        return
    head = struct.unpack("<I", content[4:8])[0]
    try:
        frame = decode(content[8:], head)
    except DataError as error:
        pytest.fail(f"Python refuses what the operators read: {content!r}: {error}")
    assert found == told(frame)


def test_bombs_are_refused(parser: Parser):
    def framed(head: str, body: bytes = b"") -> bytes:
        return struct.pack("<II", 4 + len(head) + len(body), len(head)) + head.encode() + body

    deep = '{"kind": "a", "id": 1, "x": ' + "[" * 30_000 + "]" * 30_000 + ', "arrays": []}'
    wide = '{"kind": "a", "id": 1, "arrays": [["a", "int32", [4294967296, 4294967296, 0]]]}'
    many = '{"kind": "a", "id": 1, "arrays": [' + ", ".join(f'["{n}", "uint8", [0]]' for n in range(17)) + "]}"
    twice = '{"kind": "a", "id": 1, "id": 2, "arrays": []}'
    short = '{"kind": "a", "id": 1, "arrays": [["a", "int32", [3]]]}'
    for bomb in (framed(deep), framed(wide), framed(many), framed(twice), framed(short, b"1234")):
        assert parser(bomb) == "refused"
    assert parser(struct.pack("<II", 2**32 - 1, 2**32 - 1)) == "refused"
