"""Who makes room: the cheapest to miss, as few as it takes, for a reason that can be told."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from sommelier.runtime.eviction import MEMORY_S, Candidate, UseRate, to_evict


def candidates(rng: random.Random, count: int) -> list[Candidate]:
    return [
        Candidate(
            f"m{i}", rng.randrange(0, 50) * 10**6, rng.choice([0, 0, 10**7]), rng.random(),
            rng.uniform(1, 100),
        )
        for i in range(count)
    ]  # fmt: skip


def test_what_is_chosen_is_enough_and_none_of_it_can_be_spared() -> None:
    rng = random.Random(0)
    refused = 0
    for _ in range(2000):
        given = candidates(rng, rng.randrange(0, 7))
        host, device = rng.randrange(0, 120) * 10**6, rng.choice([0, 0, 10**7, 2 * 10**7])
        chosen = to_evict(given, host, device)

        def enough(some: tuple[Candidate, ...], host: int = host, device: int = device) -> bool:
            freed = (sum(c.host_bytes for c in some), sum(c.device_bytes for c in some))
            return freed[0] >= host and freed[1] >= device

        if chosen is None:
            refused += 1
            assert not enough(tuple(given))
        else:
            assert enough(chosen)
            fewer = combinations(chosen, len(chosen) - 1) if chosen else ()
            assert not any(enough(some) for some in fewer)
            assert [c.price for c in chosen] == sorted(c.price for c in chosen)
    assert 200 < refused < 1800  # both answers were tested


def test_of_equal_sizes_the_one_that_is_missed_least_goes() -> None:
    rare = Candidate("rare", 10**7, 0, 0.1, 50.0)
    quick = Candidate("quick", 10**7, 0, 2.0, 2.0)
    dear = Candidate("dear", 10**7, 0, 2.0, 50.0)
    assert to_evict([dear, rare, quick], 10**7) == (quick,)  # 4 ms/s < 5 ms/s < 100 ms/s
    assert to_evict([dear, rare, quick], 2 * 10**7) == (quick, rare)
    assert quick.reason == "2 requests/s that would wait 2 ms, for 10 MB"


def test_a_model_that_frees_none_of_what_is_short_stays() -> None:
    on_host = Candidate("host", 10**7, 0, 0.0, 1.0)
    on_device = Candidate("device", 10**6, 10**7, 5.0, 1.0)
    assert to_evict([on_host, on_device], 0, 10**7) == (on_device,)
    assert to_evict([on_host], 0, 1) is None
    assert to_evict([on_host], 0, 0) == ()


def test_a_steady_rate_is_told_and_silence_forgotten() -> None:
    rate = UseRate()
    assert rate.per_s(0.0) == 0.0
    for i in range(10_000):
        rate.used(i / 5)
    now = 9_999 / 5
    assert rate.per_s(now) == pytest.approx(5, rel=0.01)
    assert rate.per_s(now + 3 * MEMORY_S) == pytest.approx(5 * 0.0498, rel=0.01)  # e^-3
