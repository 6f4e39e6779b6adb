"""Networks of token sequences, against an independent computation one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sommelier.analysis.links.sequences import (
    IGNORED,
    SequenceDecoder,
    SequenceEncoder,
    SequenceWriter,
    Vocabulary,
    classes_of,
    until_end,
)
from tests.analysis.links.sentences import ARCHITECTURES, END, STEPS, WORDS

FLOAT = 1e-5  # float32 sums in another order


@pytest.fixture
def network():
    torch.manual_seed(0)
    vocabulary = Vocabulary(np.arange(WORDS), WORDS, END)
    return SequenceWriter(SequenceEncoder(vocabulary), SequenceDecoder(vocabulary, STEPS))


def test_steps_count_up_to_and_with_the_first_end_token():
    tokens = np.array([[3, 0, 2, 0], [0, 1, 0, 0], [1, 2, 3, 4]])
    expected = [[True, True, False, False], [True, False, False, False], [True] * 4]
    assert until_end(tokens, 0).tolist() == expected
    assert until_end(torch.from_numpy(tokens), 0).tolist() == expected


def test_a_vocabulary_holds_what_training_showed_and_the_end():
    vocabulary = Vocabulary.of(np.array([[7, 2], [2, 2]]), 4000, 9)
    assert vocabulary.tokens.tolist() == [2, 7, 9]
    rows = vocabulary.rows()
    assert [rows[token + 1] for token in (2, 7, 9)] == [1, 2, 3]
    assert np.count_nonzero(rows) == 3


def test_classes_leave_out_what_follows_the_end_and_unknown_tokens():
    vocabulary = Vocabulary(np.array([0, 4, 6]), 8, 0)
    classes = classes_of(np.array([[6, 4, 0, 4], [5, 4, 6, 0]]), vocabulary)
    assert classes.tolist() == [[2, 1, 0, IGNORED], [IGNORED, 1, 2, 0]]


def test_an_encoder_sees_nothing_behind_the_end(network):
    one = network.encoder(torch.tensor([[2, END, END], [1, 2, 3]]))
    other = network.encoder(torch.tensor([[2, END, 4], [1, 2, 3]]))
    assert torch.equal(one.summary, other.summary)
    assert torch.equal(one.used, other.used)
    assert torch.equal(one.slots[one.used], other.slots[other.used])


def test_an_encoder_answers_padded_sequences_as_it_answers_short_ones(network):
    padded = network.encoder(torch.tensor([[2, END, END], [1, 2, 3]]))
    short = network.encoder(torch.tensor([[2, END]]))
    assert torch.allclose(padded.summary[0], short.summary[0], atol=FLOAT)


def test_teacher_forcing_on_its_own_answers_gives_the_probabilities_of_decoding(network):
    source = torch.tensor([[2, 1, 3], [4, END, END], [END, END, END]])
    classes, probabilities = network.greedy(source)
    taught = network(source, classes).softmax(2)
    assert torch.allclose(taught, probabilities, atol=FLOAT)
    assert torch.equal(probabilities.argmax(2), classes)


def test_decoding_is_what_the_formulas_say_step_by_step(network):
    tokens = [2, 4, END]
    expected = _decoded_by_hand(network, tokens)
    _, probabilities = network.greedy(torch.tensor([tokens, [1, 1, 1]]))
    np.testing.assert_allclose(probabilities[0].numpy(), expected, atol=FLOAT)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_sample_of_a_batch_changes_another(architecture):
    case = ARCHITECTURES[architecture]()
    batch = case.source.values[:8].copy()
    changed = batch.copy()
    changed[3] = case.source.values[20]
    assert not np.array_equal(changed[3], batch[3])
    answer = case.link.predict if architecture == "seq-to-vec" else case.link.scores
    others = [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_allclose(answer(batch)[others], answer(changed)[others], atol=FLOAT)
    alone = np.concatenate([answer(batch[row : row + 1]) for row in range(8)])
    np.testing.assert_allclose(answer(batch), alone, atol=FLOAT)


def _decoded_by_hand(network, tokens):
    """Bahdanau attention after an LSTM, of one sample, in numpy and float64."""
    parts = {name: value.double().numpy() for name, value in network.state_dict().items()}
    embedded = parts["encoder.embedding.table.weight"][np.array(tokens) + 1]
    memory, state = [], (np.zeros(32), np.zeros(32))
    for read in embedded:
        state = _lstm(parts, "encoder", read, state)
        memory.append(state[0])
    slots = np.array(memory)
    bridge = parts["decoder.bridge.weight"] @ slots[-1] + parts["decoder.bridge.bias"]
    state, row, steps = (np.tanh(bridge), np.zeros(32)), WORDS + 1, []
    for _ in range(STEPS):
        state = _lstm(parts, "decoder", parts["decoder.embedding.table.weight"][row], state)
        query = parts["decoder.query.weight"] @ state[0] + parts["decoder.query.bias"]
        energy = [
            parts["decoder.energy.weight"][0] @ np.tanh(query + parts["decoder.key.weight"] @ slot)
            for slot in slots
        ]
        context = _softmax(np.array(energy)) @ slots
        both = np.concatenate([state[0], context])
        steps.append(_softmax(parts["decoder.output.weight"] @ both + parts["decoder.output.bias"]))
        row = int(steps[-1].argmax()) + 1
    return np.array(steps)


def _lstm(parts, name, read, state):
    gates = (
        parts[f"{name}.lstm.weight_ih_l0"] @ read + parts[f"{name}.lstm.bias_ih_l0"]
        + parts[f"{name}.lstm.weight_hh_l0"] @ state[0] + parts[f"{name}.lstm.bias_hh_l0"]
    )  # fmt: skip
    opened, kept, new, shown = np.split(gates, 4)
    cell = _sigmoid(kept) * state[1] + _sigmoid(opened) * np.tanh(new)
    return _sigmoid(shown) * np.tanh(cell), cell


def _sigmoid(values):
    return 1 / (1 + np.exp(-values))


def _softmax(values):
    raised = np.exp(values - values.max())
    return raised / raised.sum()
