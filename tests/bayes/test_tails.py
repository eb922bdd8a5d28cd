"""Which posteriors and moments exist: by hand, and by how the restricted likelihood falls."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bhlm.bayes.priors.families import Flat, HalfCauchy
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.bayes.priors.tails import (
    find_unbounded,
    flat_tails,
    judge_posterior,
    judge_priors,
    name_indices,
)
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.propriety import count_freedom, find_special, read_geometry
from bhlm.likelihood.whitening import whiten

DATA = Path(__file__).parents[1] / "reconciliation" / "data"
# Between lam = 1e7 and 1e9 an eigenvalue of 1e-4 of a group's Z'Z still bends the line.
SLOPE = 0.02


def simulate(groups, rows, *, seed=0):
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    n = len(g)
    table = {"g": g}
    table |= {f"x{i}": rng.normal(size=n) for i in range(14)}
    table |= {f"w{i}": rng.normal(size=groups)[g] for i in range(6)}
    table["y"] = rng.normal(size=groups)[g] + rng.normal(size=n)
    return pd.DataFrame(table)


def open_model(formula, table, *, covariance=None):
    moments = Model(formula, table).moments
    structure = arrange(moments, covariance)
    return moments, read_geometry(whiten(moments, structure), structure.sizes)


def judge_chosen(formula, table, priors=None):
    moments = Model(formula, table).moments
    structure = arrange(moments)
    resolved = resolve_priors(priors, moments, structure=structure)
    return judge_priors(whiten(moments, structure), structure, resolved)


def list_unbounded(formula, table, priors=None):
    moments = Model(formula, table).moments
    structure = arrange(moments)
    return find_unbounded(priors, structure, whiten(moments, structure))


def judge_flat(formula, table, **options):
    _, geometry = open_model(formula, table)
    return judge_posterior(geometry, flat_tails(geometry.sizes, geometry.p, **options))


@pytest.mark.parametrize(
    ("groups", "proper", "index"), [(3, False, 0), (4, True, 1), (5, True, 2), (9, True, 6)]
)
def test_one_way_layout_needs_four_groups(groups, proper, index):
    """Flat on variances: proper iff J > 3 (Gelman 2006, section 3.1); sd's tail has J - 3."""
    verdict = judge_flat("y ~ 1 + (1 | g)", simulate(groups, 8))
    assert verdict.proper is proper
    assert verdict.sd[0] == index


@pytest.mark.parametrize(("groups", "index"), [(3, 1), (5, 3)])
def test_flat_on_sds_needs_three_groups(groups, index):
    assert judge_flat("y ~ 1 + (1 | g)", simulate(groups, 8), scale="sd").sd[0] == index


def test_covariates_within_groups_do_not_count():
    assert judge_flat("y ~ x0 + x1 + x2 + x3 + x4 + (1 | g)", simulate(7, 20)).sd[0] == 4
    many = "y ~ " + " + ".join(f"x{i}" for i in range(13)) + " + (1 | g)"
    assert judge_flat(many, simulate(15, 20)).sd[0] == 12


def test_predictors_of_a_coefficient_count_along_it_alone():
    verdict = judge_flat("y ~ x0 + w0 + w1 + w2 + w3 + (x0 | g)", simulate(9, 20))
    assert verdict.proper
    assert verdict.sd.tolist() == [1, 4]  # no mean of sd(Intercept), all but the 4th of sd(x0)
    model = ("y ~ x0 + w0 + w1 + w2 + w3 + (x0 | g)", simulate(9, 20))
    assert list_unbounded(*model) == ["sd(Intercept|g)"]
    assert list_unbounded(*model, Priors(sd={"x0": HalfCauchy(1.0)})) == ["sd(Intercept|g)"]
    assert list_unbounded(*model, Priors(sd={"Intercept": HalfCauchy(1.0)})) == []


def test_case_21_and_24():
    few = judge_flat("y ~ x + w + (x | g)", pd.read_csv(DATA / "21-reconcile-few-groups.csv"))
    assert few.proper
    assert few.sd.tolist() == [1, 1]
    three = judge_flat("y ~ x0 + x1 + (x0 + x1 | g)", simulate(9, 15))
    assert three.proper
    assert three.sd.tolist() == [2, 2, 2]  # sd has a mean, var has none: the integrand is 1 / lam
    assert three.cov[0, 1] == 1


def test_independent_coefficients_are_judged_one_by_one():
    verdict = judge_flat("y ~ x0 + w0 + w1 + (x0 || g)", simulate(6, 12))
    assert verdict.sd.tolist() == [1, 3]
    assert math.isinf(verdict.cov[0, 1])


def test_the_default_priors_add_their_tails():
    """Half-t(3) on the SD, normal on beta: sd^-(J + 3), whatever the fixed effects."""
    model = ("y ~ w0 + (1 | g)", simulate(4, 10))
    existence = judge_chosen(*model)
    assert existence.sd[0] == 4 + 3
    assert np.all(np.isinf(existence.beta))
    cauchy = Priors(sd=HalfCauchy(1.0), fixed=Flat())
    assert judge_chosen(*model, cauchy).sd[0] == 2 + 1


def test_recoding_moves_no_index():
    table = simulate(9, 10)
    table["moved"] = 1000.0 * (table["x0"] - 40.0)
    plain = judge_flat("y ~ x0 + w0 + (x0 | g)", table)
    moved = judge_flat("y ~ moved + w0 + (moved | g)", table)
    assert plain.sd.tolist() == [4, 4]
    assert moved.sd[0] == plain.sd[0]
    assert moved.slowest.index == plain.slowest.index


def test_a_direction_that_is_no_column_is_found():
    table = simulate(9, 20)
    for i in range(4):
        table[f"k{i}"] = table[f"w{i}"] * (1.0 + 2.0 * table["x0"])
    moments, geometry = open_model("y ~ x0 + k0 + k1 + k2 + k3 + (x0 | g)", table)
    (span,) = find_special(geometry, 0, 2, np.eye(geometry.p))
    assert span[1, 0] / span[0, 0] == pytest.approx(2.0, rel=1e-4)
    verdict = judge_posterior(geometry, flat_tails(geometry.sizes, geometry.p))
    assert verdict.sd.tolist() == [1, 1]
    named = name_indices(verdict, moments, arrange(moments))
    assert named["sd(x0|g)"] == 1.0
    assert named["var(x0|g)"] == 0.5
    assert math.isinf(named["corr(Intercept,x0|g)"])


def test_groups_that_cannot_see_a_direction_do_not_count():
    table = simulate(10, 6)
    table["z"] = np.where(table["g"] < 6, 2.0, table["x0"])
    verdict = judge_flat("y ~ z + (z | g)", table)
    # Along (-2, 1) only four groups are seen, less the fixed slope: 3 - (2 + 1) = 0.
    assert not verdict.proper
    assert verdict.slowest.span[:, 0] @ [1.0, 2.0] == pytest.approx(0.0, abs=1e-6)


def test_a_perfect_fit_within_groups_is_improper():
    table = simulate(8, 6)
    table["y"] = np.arange(8.0)[table["g"]] ** 2
    verdict = judge_flat("y ~ x0 + (1 | g)", table)
    assert not verdict.proper
    assert verdict.slowest.end == "zero"


def test_many_groups_are_judged_at_once():
    verdict = judge_flat("y ~ x0 + x1 + x2 + (x0 + x1 + x2 | g)", simulate(100, 6))
    assert verdict.proper
    assert not verdict.exact
    assert verdict.sd.min() > 8


@pytest.mark.parametrize("seed", range(6))
def test_the_restricted_likelihood_falls_as_ranks_say(seed):
    """The slope of log|V| + log|X'V^-1 X| by log lam is N(S), by dense algebra from 1e7 to 1e9."""
    rng = np.random.default_rng(seed)
    table = simulate(6, 9, seed=seed)
    terms = rng.choice(["x0", "x1", "w0", "w1", "w0:x0", "x2", "w1:x1"], size=3, replace=False)
    formula = f"y ~ {' + '.join(terms)} + (x0 + x1 | g)"
    moments, geometry = open_model(formula, table)
    verdict = judge_posterior(geometry, flat_tails(geometry.sizes, geometry.p))
    x = np.column_stack(
        [
            np.ones(len(table)) if name == "Intercept" else _column(table, name)
            for name in moments.fixed
        ]
    )
    x = np.linalg.qr(x)[0]
    z = np.column_stack([np.ones(len(table)), table["x0"], table["x1"]])
    same = table["g"].to_numpy()[:, None] == table["g"].to_numpy()[None, :]
    for ray in [ray for ray in verdict.rays if not ray.sigma][:12]:
        values = []
        for lam in (1e7, 1e9):
            root = np.hstack([math.sqrt(lam) * ray.span, 0.7 * np.eye(3)])
            v = np.eye(len(table)) + np.where(same, z @ root @ root.T @ z.T, 0.0)
            low = np.linalg.cholesky(v)
            singular = np.linalg.svd(np.linalg.solve(low, x), compute_uv=False)
            values.append(2.0 * np.log(np.diag(low)).sum() + 2.0 * np.log(singular).sum())
        slope = (values[1] - values[0]) / math.log(1e2)
        assert slope == pytest.approx(ray.freedom, abs=SLOPE * ray.freedom)
        assert count_freedom(geometry, ray.span)[0] == ray.freedom


def _column(table, name):
    return np.prod([table[part].to_numpy() for part in name.split(":")], axis=0)
