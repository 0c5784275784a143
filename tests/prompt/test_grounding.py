import numpy as np

from genrecall.prompt.grounding import title_tokens
from genrecall.prompt.vocabulary import Vocabulary


def test_codes_are_grounded_in_the_titles_of_their_items(bpe, space, sids):
    vocabulary = Vocabulary.extend(bpe(), space)
    titles = [f"red lamp {i} <a_3>" for i in range(10)]
    grounded = title_tokens(vocabulary, sids, titles, most_titles=2)
    assert len(grounded) == space.num_tokens
    assert (grounded[4] == [t for t in vocabulary.encode(titles[4]) if t < vocabulary.first_sid_token]).all()
    owners = np.flatnonzero(sids[:, 1] == 2)[:2]
    assert len(grounded[space.offset(1) + 2]) == sum(len(vocabulary.encode(titles[i])) - 1 for i in owners)
    assert len(grounded[11]) == 0  # no item carries <a_11>
