"""Proof that no eigenvalue of a Gram matrix exceeds a number: a Cholesky factorisation.

mu I - G is positive definite exactly when every eigenvalue of G is below mu. A few Lanczos steps
guess mu from below, a Cholesky factorisation that runs to its end proves it, and one that does not
makes mu grow. Gram iteration (Delattre et al. 2023) needs five or six matrix products where this
needs one, the Gram matrix, and a third of another. All in double precision: the margins for
rounding below are proved a priori, and stay under 1e-7 for every size that fits a machine.

Rounding. With u = 2^-53 and gamma_k = k u / (1 - k u), a factorisation that succeeds is exact for
a matrix that differs by at most gamma_(n+1) tr(R^H R) in norm (Higham 2002, theorem 10.3; Rump
2006), and a Gram matrix of k rows by gamma_k times the squared Frobenius norm. Complex products
cost a factor below 4 (Higham 3.6), which `rounding` takes for real ones too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sommelier.analysis.norms.weights import load_torch

if TYPE_CHECKING:
    from torch import Tensor

UNIT = 2.0**-53
STEPS = 24  # of Lanczos: within 1 % for a random matrix, whose spectrum has no gap at its end
FIRST_SLACK = 2e-3  # of the eigenvalue, half of it for the norm; falls to LEAST when converged
LEAST_SLACK = 1e-7
JOINT_SLACK = 5e-3  # for the largest of many matrices, which differ by as much
GUESSED = 4  # of those matrices, the largest by Frobenius norm
GROWTH = 3.0
BLOCK = 256  # columns below which halving a Gram matrix no longer pays


def rounding(terms: int) -> float:
    """Relative error of a sum of `terms` products in any order, real or complex."""
    return 4 * terms * UNIT / (1 - 4 * terms * UNIT)


def gram(rows: Tensor) -> Tensor:
    """A^H A for A (..., k, n), by halves, so that what symmetry repeats is computed once."""
    torch = load_torch()
    n = rows.shape[-1]
    out = torch.empty((*rows.shape[:-2], n, n), dtype=rows.dtype, device=rows.device)
    _fill(rows, out)
    return out  # type: ignore[no-any-return]  # torch is a ModuleType here


def _fill(rows: Tensor, out: Tensor) -> None:
    n = rows.shape[-1]
    if n <= BLOCK:
        out.copy_(rows.mH @ rows)
        return
    half = n // 2
    left, right = rows[..., :half], rows[..., half:]
    _fill(left, out[..., :half, :half])
    _fill(right, out[..., half:, half:])
    cross = right.mH @ left
    out[..., half:, :half] = cross
    out[..., :half, half:] = cross.mH


def eigenvalue_bounds(grams: Tensor) -> Tensor:
    """(b,) upper bounds of the largest eigenvalues of Hermitian matrices (b, n, n)."""
    torch = load_torch()
    guess, slack = _guess(grams)
    ceiling = _ceiling(grams)
    level = torch.minimum(guess * (1 + slack), ceiling)
    todo = torch.arange(len(grams), device=grams.device)
    while True:
        failed = ~_below(grams[todo], level[todo]) & (level[todo] < ceiling[todo])
        if not bool(failed.any()):
            return level * (1 + _margin(grams))  # type: ignore[no-any-return]  # torch: ModuleType
        todo = todo[failed]
        slack = slack * GROWTH
        level[todo] = torch.minimum(guess * (1 + slack), ceiling)[todo]


def joint_eigenvalue_bound(grams: Tensor, proven: float = 0.0) -> float:
    """An upper bound of all eigenvalues of all matrices (b, n, n), and of `proven`.

    proven : a bound that other matrices have; where these lie below it one factorisation says so.
    A few of the matrices left above it tell how far it has to rise.
    """
    margin = 1 + _margin(grams)
    level, slack = proven / margin, JOINT_SLACK
    if level:
        grams = grams[~_below(grams, level)]
    while len(grams):
        largest = grams.abs().square().sum(dim=(-2, -1)).topk(min(GUESSED, len(grams))).indices
        guess, _ = _guess(grams[largest])
        ceiling = float(_ceiling(grams).max())
        level = min(max(float(guess.max()), level) * (1 + slack), ceiling)
        if level == ceiling:
            break
        grams = grams[~_below(grams, level)]
        slack *= GROWTH
    return max(proven, level * margin)  # where a trace ended it an ulp below what was proven


def _margin(grams: Tensor) -> float:
    # gamma_(n+1) tr(mu I - G) <= gamma_(n+1) n mu; one more for rounding mu - g_ii.
    n = grams.shape[-1]
    return n * rounding(n + 2)


def _ceiling(grams: Tensor) -> Tensor:
    """(b,) traces, which bound every eigenvalue of a Gram matrix: where the search ends."""
    trace: Tensor = grams.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    return trace * (1 + rounding(grams.shape[-1]))


def _below(grams: Tensor, level: Tensor | float) -> Tensor:
    """(b,) whether all eigenvalues are proved to lie below level (1 + margin)."""
    torch = load_torch()
    shifted = -grams
    diagonal = shifted.diagonal(dim1=-2, dim2=-1)
    diagonal += level if isinstance(level, float) else level[:, None]
    return torch.linalg.cholesky_ex(shifted).info == 0  # type: ignore[no-any-return]  # as above


def _guess(grams: Tensor) -> tuple[Tensor, Tensor]:
    """(b,) largest Ritz values, and how far (relatively) the eigenvalues may lie above them."""
    torch = load_torch()
    count, n, _ = grams.shape
    steps = min(STEPS, n)
    # One seeded start for all: a guess decides how tight a bound is, never whether it holds.
    start = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    vector = (start / start.norm()).to(grams.device, grams.dtype).expand(count, n)
    basis = torch.zeros((count, n, steps), dtype=grams.dtype, device=grams.device)
    band = torch.zeros((count, steps, steps), dtype=torch.float64, device=grams.device)
    beta = torch.zeros(count, dtype=torch.float64, device=grams.device)
    for step in range(steps):
        basis[:, :, step] = vector
        image = (grams @ vector[:, :, None])[:, :, 0]
        band[:, step, step] = (vector.conj() * image).sum(-1).real
        known = basis[:, :, : step + 1]
        for _ in range(2):  # once loses orthogonality, twice is enough
            image = image - (known @ (known.mH @ image[:, :, None]))[:, :, 0]
        beta = torch.linalg.vector_norm(image, dim=-1)
        if step + 1 < steps:
            band[:, step + 1, step] = beta
        # An invariant subspace leaves rounding only: a zero vector then adds zero Ritz values.
        alive = beta > 1e-12 * band[:, 0, 0].clamp_min(1e-300)
        beta = torch.where(alive, beta, torch.zeros_like(beta))
        vector = torch.where(alive[:, None], image / beta[:, None].clamp_min(1e-300), 0 * image)
    values, vectors = torch.linalg.eigh(band.cpu())
    top = values[:, -1].to(grams.device).clamp_min(1e-300)
    residual = beta * vectors[:, -1, -1].abs().to(grams.device)
    return top, (residual / top).clamp(LEAST_SLACK, FIRST_SLACK)
