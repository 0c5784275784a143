import numpy as np
import pytest
import torch

from genrecall.index.trie import Trie
from genrecall.train.config import TrainConfig
from genrecall.train.data import Examples
from genrecall.train.supervised import SidLearner, Targets, visibility


def batch_and_hidden(world):
    examples = Examples(world.prompts(), world.histories, None, TrainConfig(batch_tokens=300))
    windows, groups = examples.plan(0)
    batch = examples.collate(windows, groups[0])
    model = world.model()
    with torch.no_grad():
        hidden = model.model(input_ids=torch.as_tensor(batch.tokens)).last_hidden_state.flatten(0, 1)
    return batch, model, hidden.double(), model.get_output_embeddings().weight.detach().double()


@pytest.mark.parametrize("normalise", ["trie", "level"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_its_formula(world, normalise, smoothing):
    batch, model, hidden, weight = batch_and_hidden(world)
    trie = Trie.build(world.vocabulary.space, world.sids)
    targets = Targets(trie, world.sids, normalise)
    learner = SidLearner(model, world.vocabulary.level_starts, world.vocabulary.space.codes, label_smoothing=smoothing)
    got = float(learner(targets.inputs(batch, torch.device("cpu"))).detach())
    expected = 0.0
    for item, source in zip(batch.items, batch.source, strict=True):
        sid = world.sids[item].tolist()
        for level, code in enumerate(sid):
            codes = np.arange(world.vocabulary.space.codes[level])
            if normalise == "trie":
                codes = trie.children(trie.walk(sid[:level]))[0]
            rows = torch.as_tensor(world.vocabulary.sid_tokens[level][codes])
            log_p = torch.log_softmax(weight[rows] @ hidden[source[level]], 0)
            right = codes.tolist().index(code)
            expected -= float((1 - smoothing) * log_p[right] + smoothing * log_p.mean())
    assert got == pytest.approx(expected, rel=1e-5)


def test_forced_codes_are_skipped(world):
    batch, *_ = batch_and_hidden(world)
    trie = Trie.build(world.vocabulary.space, world.sids)
    inputs = Targets(trie, world.sids, "trie").inputs(batch, torch.device("cpu"))
    forced = trie.num_children[trie.paths(world.sids[batch.items])[:, 2]] == 1
    assert forced.any()
    assert len(inputs.levels[2].code) == (~forced).sum()
    assert len(Targets(trie, world.sids, "level").inputs(batch, torch.device("cpu")).levels[2].code) == len(batch.items)


def test_only_the_sid_rows_and_target_positions_get_a_gradient(world):
    batch, model, *_ = batch_and_hidden(world)
    targets = Targets(Trie.build(world.vocabulary.space, world.sids), world.sids, "trie")
    learner = SidLearner(model, world.vocabulary.level_starts, world.vocabulary.space.codes)
    learner(targets.inputs(batch, torch.device("cpu"))).backward()
    gradient = model.get_input_embeddings().weight.grad.abs().sum(1)
    assert (gradient[world.vocabulary.first_sid_token :] > 0).any()
    words = np.setdiff1d(np.arange(world.vocabulary.first_sid_token), batch.tokens)
    assert (gradient[torch.as_tensor(words)] == 0).all()


def test_visibility_of_a_trunk_with_two_branches():
    # trunk 0-2, branch 1 after trunk token 0 (tokens 3-4), branch 2 after trunk token 2 (token 5), filling 6
    segment = torch.tensor([[0, 0, 0, 0, 0, 0, -1]])
    branch = torch.tensor([[0, 0, 0, 1, 1, 2, 0]])
    limit = torch.tensor([[0, 1, 2, 0, 0, 2, 6]])
    seen = [row.nonzero().flatten().tolist() for row in visibility(segment, branch, limit)[0, 0]]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 3], [0, 3, 4], [0, 1, 2, 5], [6]]
