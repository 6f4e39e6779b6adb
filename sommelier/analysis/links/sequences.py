"""Networks of links that read or write token sequences: three of the paper's four architectures.

Encoder, decoder and attention are those of paper 000, "Model Link Architecture", as corrected by
algorithms.md E.1. Every operation acts within one sample (the paper's public code let the attention
mix samples), and nothing behind a sequence's end token reaches a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Indices = NDArray[np.int64]
Sequences = TypeVar("Sequences", Indices, Tensor)

EMBEDDING = 16  # algorithms.md E.1
STATE = 32  # units of every LSTM and of the attention, algorithms.md E.1
SLOTS = 4  # memory slots of a vector: attention over the paper's single one is the constant 1
UNKNOWN = 0  # row of tokens that no training sample has
IGNORED = -1  # class of a step that does not count in the loss


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that training samples have: row 0 is every other token, row i is tokens[i - 1].

    A model's vocabulary is often much larger than the part of it that its answers use; a link
    embeds and predicts this part only.
    tokens : int64, ascending. size : of the model's vocabulary. end : the token that ends a
    sequence, -1 where sequences all have one length.
    """

    tokens: Indices
    size: int
    end: int

    @classmethod
    def of(cls, sequences: Indices, size: int, end: int | None) -> Vocabulary:
        """sequences : (n, steps), padded with `end`, of the training samples."""
        ending = [] if end is None else [end]
        tokens = np.union1d(sequences.ravel(), ending).astype(np.int64)
        return cls(tokens, size, -1 if end is None else end)

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self) -> Indices:
        """(size + 2,): the row of every token, shifted by one; either end is for other ids."""
        table = np.full(self.size + 2, UNKNOWN, dtype=np.int64)
        table[self.tokens + 1] = np.arange(1, len(self.tokens) + 1)
        return table


@dataclass(frozen=True, slots=True)
class Memory:
    """What an encoder made of a batch.

    slots : (n, slots, STATE). used : (n, slots), whether a slot belongs to its sample.
    summary : (n, STATE), where the decoder starts.
    """

    slots: Tensor
    used: Tensor
    summary: Tensor


class TokenEmbedding(nn.Module):
    """Tokens (...) to vectors (..., EMBEDDING); zero for a token that training did not show."""

    def __init__(self, vocabulary: Vocabulary, *, extra: int = 0) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.rows: Tensor
        self.register_buffer("rows", torch.from_numpy(vocabulary.rows()))
        size = len(vocabulary) + 1 + extra
        self.table = nn.Embedding(size, EMBEDDING, padding_idx=UNKNOWN)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.table(self.rows[tokens.clamp(-1, self.vocabulary.size) + 1])
        return found


class SequenceEncoder(nn.Module):
    """Tokens (n, steps) to the outputs of an LSTM, one slot a step up to the end token."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary)
        self.lstm = nn.LSTM(EMBEDDING, STATE, batch_first=True)

    def forward(self, tokens: Tensor) -> Memory:
        used = until_end(tokens, self.embedding.vocabulary.end)
        lengths = used.sum(1)  # at least 1, the end token, even of an empty sequence
        longest = int(lengths.max())
        slots, _ = self.lstm(self.embedding(tokens[:, :longest]))  # no step sees a later one
        samples = torch.arange(len(tokens), device=tokens.device)
        return Memory(slots, used[:, :longest], slots[samples, lengths - 1])


class VectorEncoder(nn.Module):
    """Features (n, width) of a vector to SLOTS slots, made by an MLP and bounded as an LSTM's."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mlp = perceptron(width, SLOTS * STATE, hidden)

    def forward(self, features: Tensor) -> Memory:
        slots = torch.tanh(self.mlp(features)).reshape(-1, SLOTS, STATE)
        return Memory(slots, slots.new_ones(slots.shape[:2], dtype=torch.bool), slots.mean(1))


class SequenceReader(nn.Module):
    """seq-to-vec: embedding, LSTM, MLP; what an output activation is applied to, (n, width)."""

    def __init__(self, vocabulary: Vocabulary, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.width = hidden, width
        self.encoder = SequenceEncoder(vocabulary)
        self.mlp = perceptron(STATE, width, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        outputs: Tensor = self.mlp(self.encoder(tokens).summary)
        return outputs


class SequenceDecoder(nn.Module):
    """Memory to tokens: embedding, LSTM, Bahdanau attention over the slots, output layer.

    reach : the most steps of a training sample, its end token included.
    """

    def __init__(self, vocabulary: Vocabulary, reach: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.reach = reach
        self.embedding = TokenEmbedding(vocabulary, extra=1)
        self.start = len(vocabulary) + 1  # row of what stands before the first token
        self.bridge = nn.Linear(STATE, STATE)
        self.lstm = nn.LSTM(EMBEDDING, STATE, batch_first=True)
        self.query = nn.Linear(STATE, STATE)
        self.key = nn.Linear(STATE, STATE, bias=False)
        self.energy = nn.Linear(STATE, 1, bias=False)
        self.output = nn.Linear(2 * STATE, len(vocabulary))

    def forward(self, memory: Memory, classes: Tensor) -> Tensor:
        """Logits (n, steps, classes) of every step given the true tokens before it.

        classes : (n, steps), position of a token in the vocabulary; IGNORED where there is none.
        """
        before = torch.full_like(classes[:, :1], self.start)
        read = torch.cat([before, classes[:, :-1] + 1], dim=1)
        outputs, _ = self.lstm(self.embedding.table(read), self._state(memory))
        return self._logits(outputs, memory, self.key(memory.slots))

    @torch.no_grad()
    def greedy(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """The likeliest token of every step, given those chosen before it.

        Returns classes (n, reach) and probabilities (n, reach, classes); behind the end token
        nothing is defined.
        """
        state, keys = self._state(memory), self.key(memory.slots)
        row = memory.slots.new_full((len(memory.slots), 1), self.start, dtype=torch.int64)
        chosen, probabilities = [], []
        for _ in range(self.reach):
            outputs, state = self.lstm(self.embedding.table(row), state)
            probabilities.append(self._logits(outputs, memory, keys).softmax(2))
            chosen.append(probabilities[-1].argmax(2))
            row = chosen[-1] + 1
        return torch.cat(chosen, dim=1), torch.cat(probabilities, dim=1)

    def _state(self, memory: Memory) -> tuple[Tensor, Tensor]:
        first = torch.tanh(self.bridge(memory.summary))[None]  # (1, n, STATE)
        return first, torch.zeros_like(first)

    def _logits(self, outputs: Tensor, memory: Memory, keys: Tensor) -> Tensor:
        mixed = torch.tanh(self.query(outputs)[:, :, None] + keys[:, None])  # (n, steps, slots, .)
        energy = self.energy(mixed)[..., 0].masked_fill(~memory.used[:, None], -torch.inf)
        context = energy.softmax(2) @ memory.slots  # (n, steps, STATE), of each sample its own
        logits: Tensor = self.output(torch.cat([outputs, context], dim=2))
        return logits


class SequenceWriter(nn.Module):
    """vec-to-seq and seq-to-seq: an encoder and a decoder."""

    def __init__(self, encoder: SequenceEncoder | VectorEncoder, decoder: SequenceDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, source: Tensor, classes: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.encoder(source), classes)
        return logits

    def greedy(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """As SequenceDecoder.greedy."""
        with torch.no_grad():
            return self.decoder.greedy(self.encoder(source))


def until_end(tokens: Sequences, end: int) -> Sequences:
    """Which steps count: all up to and with the first end token, bool (n, steps)."""
    ended = tokens == end
    counted: Sequences = ended.cumsum(1) == ended
    return counted


def perceptron(width: int, outputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def classes_of(tokens: Indices, vocabulary: Vocabulary) -> Indices:
    """(n, steps): what a decoder is taught; IGNORED behind the end and for unknown tokens."""
    classes: Indices = vocabulary.rows()[tokens + 1] - 1
    classes[~until_end(tokens, vocabulary.end)] = IGNORED
    return classes
