"""Sums over groups by panels, against the same sums group by group and by any number of threads."""

import threading

import numpy as np
import pytest

from bhlm.design.design import Design
from bhlm.design.formula.terms import parse_formula
from bhlm.likelihood import panels
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.marginal import fill_marginal, marginal_loglik, marginal_panels
from bhlm.likelihood.panels import (
    LANES,
    STRETCH,
    Panels,
    build_panels,
    plan_logarithms,
    sum_stretches,
)
from bhlm.likelihood.profiled import (
    differentiate,
    evaluate,
    score_psi,
    sum_bends,
    sum_products,
    sum_scores,
)
from bhlm.likelihood.visit import visit_panels
from bhlm.likelihood.weighted import weigh_panels
from bhlm.likelihood.whitening import whiten
from bhlm.moments.moments import Moments
from bhlm.reml.optimize import maximize

# Two ways of adding the same numbers, each rounded: a few hundred eps of the largest.
ROUNDING = 1e-12
SHAPES = pytest.mark.parametrize(("q", "p"), [(1, 1), (2, 2), (3, 1), (2, 5), (4, 3)])
SIZES = pytest.mark.parametrize("J", [1, LANES, LANES + 1, LANES * STRETCH + 7])


def make_blocks(J: int, q: int, p: int, *, seed: int = 1, rows: int = 12) -> np.ndarray:
    """Cross-products (J, k, k) of random rows, of fewer rows than columns in some groups."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(J, rows, q + p + 1))
    w[:: max(1, J // 3), q + 1 :] = 0.0
    return np.ascontiguousarray(np.einsum("jna,jnb->jab", w, w))


def make_parameters(q: int, p: int, *, size: float = 1.0) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(2)
    return size * rng.normal(size=(q, q)), rng.normal(size=p), 1.3


def plain_sums(blocks: np.ndarray, q: int, lam: np.ndarray) -> tuple[float, np.ndarray, tuple]:
    """sum log|H_j|, E, and all F_j and U_j, by matrix inversion, group by group."""
    a, r = blocks[:, :q, :q], blocks[:, :q, q:]
    inner = np.linalg.inv(np.eye(q) + lam.T @ a @ lam)
    middle = lam @ inner @ lam.T
    logdet = -np.linalg.slogdet(inner)[1].sum()
    e = (blocks[:, q:, q:] - r.transpose(0, 2, 1) @ middle @ r).sum(axis=0)
    return logdet, e, (a - a @ middle @ a, r - a @ middle @ r)


@SHAPES
@SIZES
def test_products_and_scores_are_the_plain_ones(J: int, q: int, p: int) -> None:
    blocks = make_blocks(J, q, p)
    lam, _, _ = make_parameters(q, p)
    logdet, e, (f, u) = plain_sums(blocks, q, lam)
    found, e_found = sum_products(build_panels(blocks, q), lam)
    assert found == pytest.approx(logdet, rel=ROUNDING)
    np.testing.assert_allclose(e_found, e, rtol=0, atol=ROUNDING * np.abs(blocks).sum())
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(p + 1, p + 1))
    weight += weight.T
    score = (f - u @ weight @ u.transpose(0, 2, 1)).sum(axis=0)
    scale = np.abs(f).sum() + np.abs(u).sum() ** 2 / J
    found_score = sum_scores(blocks, q, lam, weight)
    np.testing.assert_allclose(found_score, score, rtol=0, atol=ROUNDING * scale)
    np.testing.assert_array_equal(found_score, found_score.T)


@SHAPES
@SIZES
def test_the_marginal_likelihood_is_the_plain_one(J: int, q: int, p: int) -> None:
    blocks = make_blocks(J, q, p)
    lam, beta, sigma = make_parameters(q, p)
    n = 12.0 * J
    logdet, e, (f, u) = plain_sums(blocks, q, lam)
    left = np.append(-beta, 1.0)
    rss = left @ e @ left
    value = -0.5 * (n * np.log(2 * np.pi * sigma**2) + logdet + rss / sigma**2)
    found, dlam, dbeta, dlog = marginal_loglik(
        blocks, np.ascontiguousarray(blocks[:, q:, q:].sum(axis=0)), n, lam, beta, sigma
    )
    gap = u @ left
    slope = -f.sum(axis=0) @ lam + gap.T @ gap @ lam / sigma**2
    atol = ROUNDING * np.abs(blocks).sum()
    assert found == pytest.approx(value, rel=ROUNDING, abs=atol)
    np.testing.assert_allclose(dlam, slope, rtol=0, atol=10 * atol)
    np.testing.assert_allclose(dbeta, (e @ left)[:-1] / sigma**2, rtol=0, atol=atol)
    assert dlog == pytest.approx(rss / sigma**2 - n, abs=atol)


@pytest.mark.parametrize(
    ("size", "panels_at_once"),
    [(1e-200, STRETCH), (1.0, STRETCH), (1e20, 3), (1e60, 1), (1e150, 0)],
)
def test_determinants_of_any_size_have_a_logarithm(size: float, panels_at_once: int) -> None:
    """One logarithm serves many groups, fewer where their product would overflow."""
    blocks = make_blocks(500, 2, 1)
    pan = build_panels(blocks, 2)
    lam = np.ascontiguousarray(size * np.eye(2))
    every = plan_logarithms(lam, pan.reach)
    assert every == panels_at_once
    values = np.maximum(np.linalg.eigvalsh(blocks[:, :2, :2]), 0.0)
    logs = np.log(values) + 2 * np.log(size) if size > 1e10 else np.log1p(size**2 * values)
    assert sum_products(pan, lam)[0] == pytest.approx(logs.sum(), rel=1e-9)


def test_a_pivot_never_falls_below_one() -> None:
    """Rounding of numbers near 1e20 would, and leave the root of a negative number."""
    rng = np.random.default_rng(4)
    w = rng.normal(size=(300, 5, 1)) * np.ones(3) + 1e-9 * rng.normal(size=(300, 5, 3))
    blocks = np.zeros((300, 5, 5))
    blocks[:, :3, :3] = np.einsum("jna,jnb->jab", w, w)
    logdet, e = sum_products(build_panels(blocks, 3), 1e10 * np.eye(3))
    assert np.isfinite(logdet)
    assert logdet > 300 * np.log(1e20)
    assert np.isfinite(e).all()


def test_a_nan_is_not_hidden() -> None:
    blocks = make_blocks(70, 2, 1)
    lam = np.array([[1.0, 0.0], [np.nan, 1.0]])
    logdet, _ = sum_products(build_panels(blocks, 2), lam)
    assert np.isnan(logdet)


def test_second_derivatives_are_summed_over_all_stretches() -> None:
    blocks = make_blocks(2 * LANES * STRETCH + 50, 2, 2, rows=4)
    lam = make_parameters(2, 2)[0]
    at = evaluate(blocks, 2, lam, n=4.0 * len(blocks), restricted=True)
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(3, 2, 2))
    directions += directions.transpose(0, 2, 1)
    found = differentiate(blocks, 2, lam, at, directions)
    # By d F = -F dPsi F and d U = -F dPsi U, group by group.
    _, _, (f, u) = plain_sums(blocks, 2, lam)
    x, t = u[:, :, :-1], u @ np.append(-at.beta, 1.0)
    slope = -np.einsum("ja,mab,jb->m", t, directions, t)
    np.testing.assert_allclose(found.rss_slope, slope, rtol=1e-9)
    spread = x @ at.phi @ x.transpose(0, 2, 1)
    pairs = "jab,mbc,jcd,nda->mn"
    logdet = -np.einsum(pairs, f, directions, f, directions, optimize=True)
    logdet += 2.0 * np.einsum(pairs, f, directions, spread, directions, optimize=True)
    bend = -np.einsum("jai,mab,jbk->mik", x, directions, x)
    inner = at.phi @ bend
    logdet -= np.einsum("mik,nki->mn", inner, inner)
    np.testing.assert_allclose(found.logdet, logdet, rtol=1e-8, atol=1e-8 * np.abs(logdet).max())


def sum_whole(pan: Panels, lam: np.ndarray, *, threads: int) -> list[np.ndarray]:
    """All sums over all groups, by so many threads."""
    _, q, k, _ = pan.values.shape
    p = k - q - 1
    _, beta, sigma = make_parameters(q, p)
    sums = np.empty((pan.n_stretches, 2 + p + q * q))

    def fill(first: int, last: int) -> None:
        fill_marginal(pan.values, pan.reach, first, last, lam, beta, sigma**-2, sums)

    sum_stretches(fill, pan.n_stretches, threads=threads)
    logdet, e = sum_products(pan, lam, threads=threads)
    return [sums.copy(), np.array(logdet), e]


@pytest.mark.parametrize("q", [1, 2, 3])
@pytest.mark.parametrize("J", [1, 7, 15, 16, 17, 33, 48, 63, LANES + 1, LANES + 17])
def test_a_last_panel_that_is_not_full_is_the_sum_of_its_groups(J: int, q: int) -> None:
    """With groups among them that have no rows, as the lanes behind the last one have none."""
    blocks = make_blocks(J, q, 2)
    blocks[J // 3 : J // 2] = 0.0
    lam = make_parameters(q, 2)[0]
    found = sum_whole(build_panels(blocks, q), lam, threads=1)[0]
    each = [sum_whole(build_panels(block[None], q), lam, threads=1)[0] for block in blocks]
    np.testing.assert_allclose(found, np.sum(each, axis=0), rtol=1e-10)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_no_bit(threads: int) -> None:
    pan = build_panels(make_blocks(5 * LANES * STRETCH + 11, 2, 2, rows=4), 2)
    lam = make_parameters(2, 2)[0]
    for one, many in zip(
        sum_whole(pan, lam, threads=1), sum_whole(pan, lam, threads=threads), strict=True
    ):
        np.testing.assert_array_equal(one, many)


def test_stretches_are_shared_out_once_each() -> None:
    seen = np.zeros(10, dtype=int)
    lock = threading.Lock()
    workers = set()

    def fill(first: int, last: int) -> None:
        with lock:
            seen[first:last] += 1
            workers.add((first, last))

    for threads in (1, 3, 40, None):
        seen[:] = 0
        workers.clear()
        sum_stretches(fill, 10, threads=threads)
        assert (seen == 1).all()
        assert len(workers) == {1: 1, 3: 3, 40: 10, None: 1}[threads]


def test_what_a_thread_raises_is_raised() -> None:
    def fill(first: int, last: int) -> None:
        raise FloatingPointError(first)

    with pytest.raises(FloatingPointError):
        sum_stretches(fill, 8, threads=2)


def simulate_moments(J: int, *, seed: int = 1) -> Moments:
    """Moments of y ~ x + (x | g) with about 30 rows per group, without the rows."""
    rng = np.random.default_rng(seed)
    n = rng.poisson(30, J).clip(3).astype(float)
    u = rng.normal(size=(J, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]])
    x, xx = rng.normal(size=J) / np.sqrt(n), rng.chisquare(n - 1)
    y = 1.0 + u[:, 0] + (0.5 + u[:, 1]) * x + 2.0 * rng.normal(size=J) / np.sqrt(n)
    noise = 2.0 * rng.normal(size=J) * np.sqrt(xx)
    xy = (0.5 + u[:, 1]) * xx + noise
    yy = xy**2 / xx + 4.0 * rng.chisquare(n - 2)
    cross = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -1)
    return Moments(
        groups=np.arange(J), n=n, mean=np.column_stack([x, y]), cross=cross, dropped=0,
        design=Design.assemble(parse_formula("y ~ x + (x | g)"), {}, {}),
    )  # fmt: skip


@pytest.mark.slow
def test_a_fit_of_many_groups_has_the_same_bits_by_any_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = simulate_moments(300_000)
    structure = arrange(moments)
    white = whiten(moments, structure)
    found = []
    for cores in (1, 2, 5):
        monkeypatch.setattr(panels, "count_cores", lambda cores=cores: cores)
        optimum = maximize(white, structure, restricted=True)
        assert optimum.converged
        found.append((optimum.theta, optimum.gradient, optimum.criterion.value))
    for theta, gradient, value in found[1:]:
        np.testing.assert_array_equal(theta, found[0][0])
        np.testing.assert_array_equal(gradient, found[0][1])
        assert value == found[0][2]
    # Whatever the panels are, the groups are the same: the plain sums at the maximum.
    pan = build_panels(white.blocks, 2)
    lam = np.ascontiguousarray(np.tensordot(found[0][0], structure.factors, axes=1))
    logdet, e, _ = plain_sums(white.blocks, 2, lam)
    assert sum_products(pan, lam)[0] == pytest.approx(logdet, rel=ROUNDING)
    np.testing.assert_allclose(sum_products(pan, lam)[1], e, rtol=1e-9, atol=1e-9 * white.n)


@pytest.mark.slow
def test_draws_of_many_groups_repeat_to_the_last_bit() -> None:
    """Chains run side by side, in whatever order the cores take them."""
    from bhlm.bayes.draws import Settings
    from bhlm.bayes.sampling import sample_moments

    moments = simulate_moments(20_000)
    one, two, alone = (
        sample_moments(
            moments, seed=4, settings=Settings(draws=60, tune=200, chains=2, cores=cores)
        )
        for cores in (2, 2, 1)
    )
    for other in (two, alone):
        for name in ("beta", "G", "sigma"):
            np.testing.assert_array_equal(
                other.data["posterior"][name].values, one.data["posterior"][name].values
            )


def test_panels_that_are_given_are_used() -> None:
    blocks = make_blocks(90, 2, 2)
    lam = make_parameters(2, 2)[0]
    pan = build_panels(blocks, 2)
    expected = evaluate(blocks, 2, lam, n=1080.0, restricted=True)
    slope = score_psi(blocks, 2, lam, expected)
    others = build_panels(make_blocks(80, 2, 2), 2)
    assert evaluate(blocks, 2, lam, n=1080.0, restricted=True, panels=others).value != (
        expected.value
    )
    assert not np.array_equal(score_psi(blocks, 2, lam, expected, panels=others), slope)
    assert evaluate(blocks, 2, lam, n=1080.0, restricted=True, panels=pan).value == expected.value
    np.testing.assert_array_equal(score_psi(blocks, 2, lam, expected, panels=pan), slope)


def test_the_order_of_groups_hardly_matters() -> None:
    """What a panel holds is chance; the groups that fill the last one must not count."""
    blocks = make_blocks(LANES * STRETCH + 90, 2, 2)
    lam, beta, sigma = make_parameters(2, 2)
    values = []
    for order in (slice(None), slice(None, None, -1)):
        pan = build_panels(np.ascontiguousarray(blocks[order]), 2)
        values.append(marginal_panels(pan.values, pan.total, pan.reach, 9.0, lam, beta, sigma)[0])
    assert values[0] == pytest.approx(values[1], rel=ROUNDING)


@pytest.mark.parametrize("q", [1, 2])
def test_effects_far_larger_than_their_errors_keep_their_digits(q: int) -> None:
    """(I + Z'Z Psi)^-1 goes to zero with large variances: 1 less nearly 1 would have no digits."""
    blocks = make_blocks(70, q, 1)
    lam = np.ascontiguousarray(1e8 * np.eye(q))
    at = evaluate(blocks, q, lam, n=300.0, restricted=True)
    sums = sum_bends(build_panels(blocks, q), lam, at)
    f = 1e-16 * np.eye(q)[np.tril_indices(q)]  # Psi^-1, of which Z'Z takes off one part in 1e16
    ff = np.outer(f, f)[np.tril_indices(len(f))]
    np.testing.assert_allclose(sums[: len(ff)], 70.0 * ff, rtol=1e-8, atol=1e-8 * 70e-32)


@pytest.mark.parametrize(("q", "p"), [(1, 1), (2, 2), (3, 2), (2, 5)])
@pytest.mark.parametrize("n_groups", [50, LANES * STRETCH + 70])
def test_one_compiled_call_is_what_the_steps_are(q: int, p: int, n_groups: int) -> None:
    blocks = make_blocks(n_groups, q, p)
    lam = make_parameters(q, p)[0]
    pan = build_panels(blocks, q)
    n = 5.0 * n_groups
    at = evaluate(blocks, q, lam, n=n, restricted=True, panels=pan)
    score = score_psi(blocks, q, lam, at, panels=pan)
    found = visit_panels(pan.values, pan.reach, pan.total, weigh_panels(None), lam, n, True, np.nan)
    assert found.value == pytest.approx(at.value, rel=1e-14)
    np.testing.assert_allclose(found.score, score, rtol=1e-12, atol=1e-12 * np.abs(score).max())
    np.testing.assert_array_equal(found.bends, sum_bends(pan, lam, at))


@pytest.mark.parametrize("q", [1, 2, 3])
def test_weights_of_groups_are_groups_that_come_so_often(q: int) -> None:
    blocks, lam = make_blocks(LANES * STRETCH + 70, q, 2), make_parameters(q, 2)[0]
    often = np.random.default_rng(3).integers(1, 4, size=len(blocks))
    repeated = np.repeat(blocks, often, axis=0)
    n = 5.0 * len(repeated)
    plain = evaluate(repeated, q, lam, n=n, restricted=True)
    groups = often.astype(float)
    at = evaluate(blocks, q, lam, n=n, restricted=True, groups=groups)
    assert at.value == pytest.approx(plain.value, rel=1e-12)
    score = score_psi(repeated, q, lam, plain)
    close = {"rtol": 1e-10, "atol": 1e-10 * np.abs(score).max()}
    np.testing.assert_allclose(score_psi(blocks, q, lam, at, groups=groups), score, **close)
    pan = build_panels(blocks, q, groups)
    found = visit_panels(
        pan.values, pan.reach, pan.total, weigh_panels(groups), lam, n, True, np.nan
    )
    assert found.value == pytest.approx(plain.value, rel=1e-12)
    np.testing.assert_allclose(found.score, score, **close)
    wanted = sum_bends(build_panels(repeated, q), lam, plain)
    for weighted in (found.bends, sum_bends(pan, lam, at, groups=groups)):
        np.testing.assert_allclose(weighted, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
