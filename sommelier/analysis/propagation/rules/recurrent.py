"""LSTM, GRU and RNN, step by step (algorithms.md B.4 rows 52-54).

States and gates are bounded, so no change exceeds their range: without these clamps the bound
would grow without end along the sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sommelier.analysis.probabilities import sigmoid
from sommelier.analysis.propagation.extension import Array, Quantity
from sommelier.analysis.propagation.norm_requests import NormRequest
from sommelier.analysis.propagation.rules.recurrence import (
    INITIAL_C,
    INITIAL_H,
    Direction,
    directions,
    host_states,
    initial,
    initial_size,
)
from sommelier.analysis.propagation.site import Bound, Reading, Rule, Site, UnboundedError

States = tuple[Array, Array, Array]
"""Bounds of one direction: all hidden states together, the last hidden state, the last cell."""

I, O, F, C = range(4)  # LSTM's gates in ONNX's order  # noqa: E741
Z, R, N = range(3)  # GRU's


def lstm(site: Site) -> Bound:
    """Row 52."""
    return _recurrent(site, 4, ("sigmoid", "tanh", "tanh"), _lstm_direction)


def gru(site: Site) -> Bound:
    """Row 53, for both places of the reset gate."""
    return _recurrent(site, 3, ("sigmoid", "tanh"), _gru_direction)


def rnn(site: Site) -> Bound:
    """Row 54."""
    stated = [str(a).lower() for a in site.attribute("activations", ["tanh"])]
    if stated[0] not in ("tanh", "relu", "sigmoid"):
        raise UnboundedError(f"its activations are {', '.join(stated)}")
    return _recurrent(site, 1, (stated[0],), _rnn_direction)


def _recurrent(
    site: Site, gates: int, activations: tuple[str, ...],
    plan: Callable[[Direction, str], Callable[[Reading], States]],
) -> Bound:  # fmt: skip
    if site.situation.ball:
        raise UnboundedError("in a ball of inputs its steps are not tracked")
    found = directions(site, gates, activations)
    states = host_states(site)
    bounds = [plan(direction, states) for direction in found]

    def bound(at: Reading) -> tuple[Array, ...]:
        outputs = [bound(at) for bound in bounds]
        return tuple(np.sqrt(np.sum([out[k] ** 2 for out in outputs], axis=0)) for k in range(3))

    return bound


@dataclass(frozen=True, slots=True)
class Gates:
    """How the linear parts of the gates change: norms, and the residual at each step."""

    inputs: list[NormRequest]
    recurrent: list[NormRequest]
    residual: Quantity | None

    def change(self, at: Reading, step: int, gate: int, hidden: Array) -> Array:
        """Bound of gate `gate` before its activation, from the bound of the hidden state."""
        own = at[self.inputs[gate]] * at.delta(0)
        carried = np.where(hidden == 0, 0.0, at[self.recurrent[gate]] * hidden)
        left = at[0.0] if self.residual is None else at[self.residual][:, step, gate]
        return np.asarray(own + carried + left)


def _gates(direction: Direction, x: str, previous: str) -> Gates:
    residual = None
    if direction.differs:
        d = direction.difference
        terms = [(x, d.inputs), (previous, d.recurrent)]
        linear = direction.affine(terms, d.input_bias + d.recurrent_bias)
        residual = direction.each_step("ReduceL2", linear)
    return Gates(direction.norms("inputs"), direction.norms("recurrent"), residual)


def _lstm_direction(direction: Direction, states: str) -> Callable[[Reading], States]:
    site, w = direction.site, direction.before
    x, previous = site.name(), direction.previous(states)
    gates = _gates(direction, x, previous)
    linear = direction.affine(
        [(x, w.inputs), (previous, w.recurrent)], w.input_bias + w.recurrent_bias
    )
    highest = direction.each_step("ReduceMax", linear)
    largest = direction.each_step("ReduceMax", site.extension.node("Abs", [linear]))
    cell_size = initial_size(site, INITIAL_C)
    root = math.sqrt(direction.batch * direction.hidden)

    def bound(at: Reading) -> States:
        dh = at.delta(INITIAL_H) if site.has(INITIAL_H) else at[0.0]
        dc, cell = initial(at, site, INITIAL_C, cell_size)
        limit, hidden = cell + dc, []  # of the twin's cell: each step adds at most 1
        for step in direction.order():
            tops = _sigmoid(at[highest][:, step])
            g = np.tanh(at[largest][:, step, C])
            dz = [gates.change(at, step, k, dh) for k in range(4)]
            twin = np.minimum(cell + dc, limit)
            forget = tops[:, F] * dc + twin * _gate(dz[F], root)
            write = tops[:, I] * np.minimum(dz[C], 2 * root)
            write = write + np.minimum(1.0, g + dz[C]) * _gate(dz[I], root)
            cell, limit = tops[:, F] * cell + tops[:, I] * g, limit + 1.0
            dc = np.minimum(forget + write, (cell + limit) * root)
            shown = tops[:, O] * np.minimum(dc, 2 * root)
            dh = np.minimum(shown + np.tanh(cell + dc) * _gate(dz[O], root), 2 * root)
            hidden.append(dh)
        return _joint(hidden), dh, dc

    return bound


def _gru_direction(direction: Direction, states: str) -> Callable[[Reading], States]:
    site, w = direction.site, direction.before
    x, previous = site.name(), direction.previous(states)
    gates = _gates(direction, x, previous)
    linear = direction.affine(
        [(x, w.inputs[:N]), (previous, w.recurrent[:N])], (w.input_bias + w.recurrent_bias)[:N]
    )
    highest, lowest = (direction.each_step(f"Reduce{k}", linear) for k in ("Max", "Min"))
    root = math.sqrt(direction.batch * direction.hidden)
    candidate = _candidate(direction, x, previous, linear)
    size = initial_size(site, INITIAL_H)

    def bound(at: Reading) -> States:
        dh, start = initial(at, site, INITIAL_H, size)
        farthest = np.maximum(1.0, start + dh)  # of the twin's state: a mean of tanh and the start
        hidden = []
        for step in direction.order():
            dz, dr = (gates.change(at, step, k, dh) for k in (Z, R))
            update, keep = _sigmoid(-at[lowest][:, step, Z]), _sigmoid(at[highest][:, step, Z])
            reset = np.minimum(1.0, _sigmoid(at[highest][:, step, R]) + dr / 4)
            own = at[gates.inputs[N]] * at.delta(0)
            dn = np.minimum(
                own + candidate(at, step, (dh, reset, _gate(dr, root)), gates.recurrent[N]),
                2 * root,
            )
            dh = update * dn + keep * dh + (1 + farthest) * _gate(dz, root)
            dh = np.minimum(dh, (farthest + np.maximum(1.0, start)) * root)
            hidden.append(dh)
        return _joint(hidden), dh, at[0.0]

    return bound


Candidate = Callable[[Reading, int, tuple[Array, Array, Array], NormRequest], Array]


def _candidate(direction: Direction, x: str, previous: str, linear: str) -> Candidate:
    """What the reset state adds to the candidate's change, and its residual.

    linear_before_reset: r * v with v = R h + b; otherwise R (r * h). In both, with a the factor of
    the gate, r'a' - r a = r'(a' - a) + (r' - r) a.
    """
    ext, w, d = direction.site.extension, direction.before, direction.difference
    before_reset = bool(direction.site.attribute("linear_before_reset", 0))
    if before_reset:
        v = direction.affine([(previous, w.recurrent[N:])], w.recurrent_bias[N:])
        dv = direction.affine([(previous, d.recurrent[N:])], d.recurrent_bias[N:])
        drive = direction.affine([(x, d.inputs[N:])], d.input_bias[N:])
        carried = direction.each_step("ReduceL2", dv)
        factor = direction.each_step("ReduceMax", ext.node("Abs", [v]))
    else:
        which = ext.constant(np.array(R))
        opened = ext.node("Sigmoid", [ext.node("Gather", [linear, which], axis=2)])
        terms = [(x, d.inputs[N:]), (ext.node("Mul", [opened, previous]), d.recurrent[N:])]
        drive = direction.affine(terms, (d.input_bias + d.recurrent_bias)[N:])
        shaped = ext.reshape(previous, [direction.steps, direction.batch, 1, direction.hidden])
        factor = direction.each_step("ReduceMax", ext.node("Abs", [shaped]))
        carried = None
    residual = direction.each_step("ReduceL2", drive)

    def change(
        at: Reading, step: int, known: tuple[Array, Array, Array], norm: NormRequest
    ) -> Array:
        dh, reset, opening = known
        left = at[residual][:, step, 0]
        if carried is None:
            inner = reset * dh + at[factor][:, step, 0] * opening
            return np.asarray(left + at[norm] * inner)
        moved = at[carried][:, step, 0] + at[norm] * dh
        return np.asarray(left + reset * moved + at[factor][:, step, 0] * opening)

    return change


def _rnn_direction(direction: Direction, states: str) -> Callable[[Reading], States]:
    site = direction.site
    previous = direction.previous(states)
    gates = _gates(direction, site.name(), previous)
    bounded = str(site.attribute("activations", ["tanh"])[0]).lower() != "relu"
    most = 2 * math.sqrt(direction.batch * direction.hidden) if bounded else math.inf

    def bound(at: Reading) -> States:
        dh = at.delta(INITIAL_H) if site.has(INITIAL_H) else at[0.0]
        hidden = []
        for step in direction.order():
            dh = np.minimum(gates.change(at, step, 0, dh), most)
            hidden.append(dh)
        return _joint(hidden), dh, at[0.0]

    return bound


def _sigmoid(values: Array) -> Array:
    return sigmoid(values) + 1e-7  # float32 gates may round up


def _gate(change: Array, root: float) -> Array:
    """Bound of a sigmoid's change: slope 1/4, width 1."""
    return np.minimum(change / 4, root)


def _joint(steps: list[Array]) -> Array:
    return np.asarray(np.sqrt(np.sum(np.square(steps), axis=0)))


RECURRENT: dict[str, Rule] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
