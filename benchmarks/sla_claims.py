"""What ModiPick's paper says of its simulations, beside what they give here."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.report import Cell, table
from benchmarks.sla_cases import Case, Point

Grid = Mapping[Case, Mapping[str, Point]]

FIG_6, FIG_9 = "Fig. 6, SLA ms", "Fig. 9, SLA ms"


def report(cells: Grid) -> dict[str, float]:
    """Print the claims and the shares of models; return the figures they rest on."""
    six = _group(cells, FIG_6)
    nine = _group(cells, FIG_9)
    tight, loose = (_group(cells, f"Fig. 7, SLA {sla} ms, CV") for sla in (100, 250))
    cut = {
        sla: 1 - points["modipick"].latency / points["static_greedy"].latency
        for sla, points in six.items()
    }
    gain = {
        sla: points["modipick"].attainment - points["static_greedy"].attainment
        for sla, points in six.items()
    }
    best = max(gain, key=lambda sla: gain[sla])
    behind = nine["250"]["related_accurate"].accuracy - nine["250"]["modipick"].accuracy
    rows: list[tuple[Cell, ...]] = [
        (
            "latency against static greedy",
            "up to -42 to -43 %",
            f"-{100 * max(cut.values()):.0f} %",
        ),
        (
            "attainment over static greedy",
            "up to +88.5 %",
            f"+{gain[best]:.1f} points at {best} ms",
        ),
        ("accuracy at 115 ms", "68 %", f"{six['115']['modipick'].accuracy:.1f} %"),
        (
            "accuracy against static greedy from 250 ms",
            "equal",
            f"{_behind(six['250']):+.1f}, at 300 ms {_behind(six['300']):+.1f} points",
        ),
        (
            "InceptionResNetV2",
            "never chosen",
            f"{100 * max(p['modipick'].shares['InceptionResNetV2'] for p in six.values()):.1f} %",
        ),
        (
            "accuracy at 100 ms as the network varies more",
            "up to +10 points",
            f"{tight['1']['modipick'].accuracy - tight['0']['modipick'].accuracy:+.1f} points",
        ),
        (
            "accuracy at 250 ms, any network",
            "about 80 %",
            f"{_least(loose):.1f} to {_most(loose):.1f} %",
        ),
        ("loss against related_accurate, Fig. 9", "negligible", f"{behind:.1f} points at 250 ms"),
        (
            "NasNet Fictional's share, Fig. 9",
            "low",
            f"{100 * max(p['modipick'].shares['NasNet Fictional'] for p in nine.values()):.0f} %",
        ),
    ]
    print(table("ModiPick, as published and here", ("claim", "paper", "here"), rows))
    _print_shares(six)
    return {
        "latency_cut": max(cut.values()),
        "attainment_gain": gain[best],
        "fictional_loss": behind,
    }


def _print_shares(six: Mapping[str, Mapping[str, Point]]) -> None:
    """Fig. 6(b)."""
    names = list(next(iter(six.values()))["modipick"].shares)
    rows = [
        (name, *(f"{100 * points['modipick'].shares[name]:.0f}" for points in six.values()))
        for name in names
    ]
    print(table("shares of models in ModiPick's answers, %", ("SLA ms", *six), rows))


def _group(cells: Grid, group: str) -> dict[str, Mapping[str, Point]]:
    return {case.label: points for case, points in cells.items() if case.group == group}


def _behind(points: Mapping[str, Point]) -> float:
    return points["modipick"].accuracy - points["static_greedy"].accuracy


def _least(group: Mapping[str, Mapping[str, Point]]) -> float:
    return min(points["modipick"].accuracy for points in group.values())


def _most(group: Mapping[str, Mapping[str, Point]]) -> float:
    return max(points["modipick"].accuracy for points in group.values())
