import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrecall.errors import CapacityError, ConfigError
from genrecall.sid.space import SidSpace

spaces = st.lists(st.integers(1, 300), min_size=1, max_size=40).map(lambda codes: SidSpace(tuple(codes)))


@given(st.data(), spaces)
def test_format_and_parse_are_inverse(data: st.DataObject, space: SidSpace) -> None:
    sid = tuple(data.draw(st.integers(0, size - 1)) for size in space.codes)
    assert space.parse(space.format(sid)) == sid


@given(spaces)
def test_flat_order_is_the_order_of_tokens(space: SidSpace) -> None:
    tokens = list(space.tokens())
    assert len(tokens) == len(set(tokens)) == space.num_tokens
    for level, size in enumerate(space.codes):
        assert tokens[space.offset(level)] == space.token(level, 0)
        assert tokens[space.offset(level) + size - 1] == space.token(level, size - 1)


def test_the_written_form() -> None:
    space = SidSpace.uniform(4, 256)
    assert space.format((99, 225, 67, 242)) == "<a_99><b_225><c_67><d_242>"
    long = SidSpace.uniform(32, 4)
    assert [long.token(level, 3) for level in (25, 26, 31)] == ["<z_3>", "<aa_3>", "<af_3>"]
    assert len(set(long.tokens())) == long.num_tokens
    assert space.capacity == 256**4


@pytest.mark.parametrize(
    "text", ["", "<a_1>", "<a_1><b_2><c_9>", "<b_1><a_1><c_1>", "<a_1> <b_2><c_3>", "<a_01><b_2><c_3>"]
)
def test_what_is_not_a_sid_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed:"):
        SidSpace.uniform(3, 8).parse(text)


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ConfigError):
        SidSpace(())
    with pytest.raises(ConfigError):
        SidSpace((4, 0))
    with pytest.raises(ConfigError):
        SidSpace((4,) * 129)
    with pytest.raises(CapacityError, match="cannot hold"):
        SidSpace.uniform(2, 8).require_capacity(65)
    SidSpace.uniform(2, 8).require_capacity(64)
