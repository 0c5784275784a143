"""When two answers count as equal although sums of floats differ in their last bits."""

from __future__ import annotations

from genrecall.engine.host.request import Answer

NEAR = 1e-4


def assert_same(found: Answer, expected: Answer, near: float = NEAR) -> None:
    """Scores equal by rank; SIDs equal but for those whose score is within ``near`` of another's or of the cut."""
    assert found.short == expected.short
    assert len(found.sids) == len(expected.sids)
    assert len(set(found.sids)) == len(found.sids)
    for ours, theirs in zip(found.scores, expected.scores, strict=True):
        assert abs(ours - theirs) < near
    theirs_by_sid = dict(zip(expected.sids, expected.scores, strict=True))
    ours_by_sid = dict(zip(found.sids, found.scores, strict=True))
    cut = expected.scores[-1] if expected.scores else 0.0
    for sid in set(found.sids) ^ set(expected.sids):
        assert abs(theirs_by_sid.get(sid, ours_by_sid.get(sid, 0.0)) - cut) < near, f"{sid} is not near the cut"
    for sid in set(found.sids) & set(expected.sids):
        assert abs(theirs_by_sid[sid] - ours_by_sid[sid]) < near
