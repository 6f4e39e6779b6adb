"""Can a segment be exchanged, and is what is said about it true? Figure 10 of Sommelier.

A small network is trained on real images and becomes many: copies fine-tuned with their first
layers frozen, copies with noise on their weights, copies fine-tuned by little and by much
(algorithms.md B.2). Each pair exchanges its segments one at a time, and all of them before the
head at once ("body"), and three accuracies are held against each other:

estimated   the host's, if the share of answers that `assess` expects to change is lost evenly by
            right and wrong ones; for one segment from noise of the size of its difference, for
            several from the sum of their changes of the output. No promise.
certified   the host's, counting every sample it answers right as wrong unless `propagate` proves
            the answer unchanged. A promise: never above the measured accuracy.
measured    the hybrid's: its ONNX graph built and run.

Three kinds of promises are counted, and broken ones are violations: a certified accuracy is not
above the measured one; a sample proved unchanged has the same answer; no tensor of the hybrid is
further from the host's, on any sample, than its bound and 1e-6 of its norm, which is what two
float32 runs may differ by. All tensors are looked at, and in static mode as well.

Figures: certified_violations (0 unless a bound is broken), tightness_median (certified bound of the
difference at the segment's exit / the true difference, median over pairs, segments and samples).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks import segment_rules as rules
from benchmarks.exchanges import (
    TOLERANCE,
    Exchange,
    Floats,
    Ledger,
    Pair,
    Probes,
    Tensors,
    activations,
    difference,
    exchange,
    expectations,
    hold_against,
    norms,
    tensors_of,
)
from benchmarks.report import Cell, arguments, finish, table
from benchmarks.tuned_networks import QUICK, Effort, Workshop, images, parts
from benchmarks.zoo_pairs import zoo_table
from sommelier.analysis.norms import Window, lower_estimate, window_norm
from sommelier.analysis.propagation import propagate
from sommelier.analysis.segments import (
    Segment,
    build_twin,
    common_segments,
    replaced_weights,
    separate,
)

SAMPLES, QUICK_SAMPLES = 1_000, 100
BODY = "body"
CHAIN = 2  # segments of the chain conv relu maxpool conv relu, to which the norms are compared


@dataclass(frozen=True, slots=True)
class Row:
    """A pair, its host's accuracy, and its exchanges by segment."""

    name: str
    accuracy: float
    exchanges: Mapping[str, Exchange]


def segments_of(pair: Pair) -> tuple[list[Segment], list[Segment]]:
    """The common segments of the pair, and those of them before the head."""
    found = common_segments(pair.host, pair.donor, kinds=("common",), split="block")
    return list(found), [segment for segment in found if segment.host_exit != pair.output]


def tried(pairs: Iterable[Pair], probes: Probes, seed: int, ledger: Ledger) -> list[Row]:
    """Every segment of every pair alone, and those before the head together."""
    rows = []
    for pair in pairs:
        every, body = segments_of(pair)
        alone, together = expectations(pair, body, probes, seed)
        alone |= expectations(pair, every[len(body) :], probes, seed)[0]
        found = {s.name: exchange(pair, [s], probes, alone[s.name], ledger) for s in every}
        found[BODY] = exchange(pair, body, probes, together, ledger)
        answers = tensors_of(pair.host, [pair.output], {pair.input: probes.x})[pair.output]
        accuracy = float((answers.argmax(axis=1) == probes.y).mean())
        rows.append(Row(pair.name, accuracy, found))
    return rows


def _accuracies(one: Exchange) -> str:
    return f"{100 * one.estimated:.1f} / {100 * one.certified:.1f} / {100 * one.measured:.1f}"


def _changes(one: Exchange) -> str:
    return f"{100 * one.expected:.1f} / {100 * one.uncertified:.1f} / {100 * one.changed:.1f}"


def _tightness(one: Exchange) -> str:
    return f"{np.nanmedian(one.tightness):.2f} / {np.nanmedian(one.at_output):.3g}"


def by_segment(title: str, rows: Sequence[Row], cell: Callable[[Exchange], str]) -> str:
    """Pairs down, segments across; '=' where the two have equal weights, '' without a segment."""
    names = [*dict.fromkeys(n for row in rows for n in row.exchanges if n != BODY), BODY]
    cells: list[list[Cell]] = []
    for row in rows:
        found = [row.exchanges.get(name) for name in names]
        shown = ["" if e is None else "=" if e.identical else cell(e) for e in found]
        cells.append([row.name, f"{100 * row.accuracy:.1f}", *shown])
    return table(title, ("pair", "host %", *names), cells)


def norms_table(pair: Pair, probes: Probes) -> str:
    """The norms of the host's convolutions by each method, beside power iteration from below."""
    tensors = tensors_of(pair.host, activations(pair.host), {pair.input: probes.x[:1]})
    tensors[pair.input] = probes.x[:1]
    rows: list[tuple[Cell, ...]] = []
    for layer in rules.convolutions(pair.host):
        assert layer.host is not None
        weight, window = layer.host[0], window_of(layer, tensors)
        below, ours = lower_estimate(weight, window), window_norm(weight, window)
        paper, cheap = rules.reshaped(layer, weight), rules.overlapping(layer, weight)
        verdict = "too small" if paper < below.value else ""
        rows.append((layer.exit, str(weight.shape), below.value, ours.value, ours.method, cheap,
                     paper, verdict))  # fmt: skip
    header = ("convolution", "weight", "power (below)", "product", "method", "sqrt(N) * reshaped",
              "reshaped (paper)", "")  # fmt: skip
    return table("norms of the base's convolutions", header, rows)


def window_of(layer: rules.Layer, tensors: Tensors) -> Window:
    """The layer's attributes as the library of norms wants them."""
    shape = tensors[layer.entry].shape[2:]
    return Window.of(shape, layer.attributes.get("strides"), layer.attributes.get("pads"))


def methods_table(pairs: Sequence[Pair], probes: Probes, ledger: Ledger) -> str:
    """bound / truth at the end of the chain by norm and mode, and how many samples are above it."""
    rows = [(pair.name, *_by_method(pair, probes, ledger)) for pair in pairs]
    header = ("pair", "paper's rules", "static: sqrt(N) * reshaped", "static: product",
              "probe: sqrt(N) * reshaped", "probe: product")  # fmt: skip
    title = (
        "bound / true difference after conv relu maxpool conv relu, median over samples "
        f"(samples of {len(probes.y)} whose difference is above it)"
    )
    return table(title, header, rows)


def _by_method(pair: Pair, probes: Probes, ledger: Ledger) -> list[str]:
    segments = segments_of(pair)[1][:CHAIN]
    inputs = {pair.input: probes.x}
    host = separate(pair.host, pair.donor, segments)
    replaced = replaced_weights(pair.host, pair.donor, segments)
    ours = tensors_of(host, activations(host), inputs)
    theirs = tensors_of(build_twin(pair.host, pair.donor, segments), list(ours), inputs)
    end = segments[-1].host_exit
    true = difference(ours[end], theirs[end])
    ball = propagate(
        host, replaced, {pair.input: np.zeros_like(probes.x[:1])}, mode="static",
        radius=float(norms(probes.x).max()),
    )  # fmt: skip
    hold_against(ball, ours, theirs, ledger)
    layers, tensors = rules.chain(host, replaced, end), {**ours, **inputs}
    bounds = (
        rules.paper(layers, tensors),
        rules.static(layers, tensors, rules.overlapping),
        ball.deltas[end],
        rules.probe(layers, tensors, rules.overlapping),
        propagate(host, replaced, inputs).deltas[end],
    )
    return [_judged(bound, true, norms(ours[end])) for bound in bounds]


def _judged(bound: Floats, true: Floats, size: Floats) -> str:
    above = int(np.count_nonzero(true > bound + TOLERANCE * size))
    return f"{np.median(bound / true):.2f} ({above})"


def main() -> None:
    options = arguments("Exchanged segments: Sommelier, figure 10").parse_args()
    torch.set_num_threads(1)  # small layers: more threads wait for each other
    effort = QUICK if options.quick else Effort()
    name, every = images(effort.images, np.random.default_rng(options.seed))
    held_out = parts(every)[2][: QUICK_SAMPLES if options.quick else SAMPLES]
    probes = Probes(held_out.x, held_out.y)
    print(
        f"{name}: accuracies and answers on {len(held_out)} images that no network was trained on"
    )
    workshop, ledger = Workshop(every, effort, options.seed), Ledger()
    tuned = list(workshop.fine_tunes())
    families = {
        "fine-tuned with its first layers frozen, gets the base's segments": workshop.depths(),
        "the base gets segments with noise (of each weight's deviation)": workshop.noises(),
        "the base gets fine-tuned segments": tuned,
    }
    rows = figure_10(families, probes, options.seed, ledger)
    print(segment_list(tuned[0]))
    print(norms_table(tuned[0], probes))
    print(methods_table(tuned, probes, ledger))
    print(zoo_table(quick=options.quick, seed=options.seed, ledger=ledger))
    print(
        f"\n{ledger.promises} promises. Nearest to being broken: a tensor whose difference is "
        f"{ledger.nearest:.1e} of its norm above its bound ({TOLERANCE:g} is allowed). Bounds 1 % "
        f"lower would break {ledger.lower}."
    )
    tight = np.concatenate([e.tightness for row in rows for e in row.exchanges.values()])
    figures = {
        "certified_violations": ledger.violations,
        "tightness_median": float(np.nanmedian(tight)),
    }
    finish(figures, options.json)


def figure_10(
    families: Mapping[str, Iterable[Pair]], probes: Probes, seed: int, ledger: Ledger
) -> list[Row]:
    """All exchanges of all pairs, printed family by family as they are done, then together."""
    rows: list[Row] = []
    for title, pairs in families.items():
        found = tried(pairs, probes, seed, ledger)
        heading = f"{title}: accuracy, estimated / certified / measured %"
        print(by_segment(heading, found, _accuracies))
        rows += found
    title = "answers that change: estimated / not proved unchanged / measured %"
    print(by_segment(title, rows, _changes))
    title = "bound / true difference, median over samples: at the segment's exit / at the logits"
    print(by_segment(title, rows, _tightness))
    return rows


def segment_list(pair: Pair) -> str:
    """What the names stand for."""
    rows = [
        (
            s.name,
            f"{s.host_entry} -> {s.host_exit}",
            s.operators,
            s.params or 0,
            (s.flops or 0) / 1e6,
        )
        for s in segments_of(pair)[0]
    ]
    return table("segments", ("name", "from, to", "operators", "params", "MFLOPs"), rows)


if __name__ == "__main__":
    main()
