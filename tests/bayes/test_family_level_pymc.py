"""PyMC's conditional model of families with several factors: the density of the patterns."""

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import bhlm
from bhlm.errors import ArgumentError, PriorError

pytestmark = pytest.mark.wide

NESTED, CROSSED = "(x | school) + (1 | school:class)", "(1 | class) + (1 | item)"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    place = np.arange(96)
    size = rng.integers(1, 5, 96)
    p = special.expit(rng.normal(0.0, 1.0, 24)[place // 4])
    return pd.DataFrame(
        {"school": place // 16, "class": place // 4, "item": place % 4, "size": size,
         "x": rng.integers(-1, 2, 96) / 2.0, "hit": rng.binomial(1, p),
         "hits": rng.binomial(size, p)}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("response", "how", "random"),
    [
        ("hit", {"family": "bernoulli"}, NESTED),
        ("hits / size", {"family": "binomial", "link": "cloglog"}, CROSSED),
        ("hits", {"family": "poisson", "exposure": "size"}, CROSSED),
    ],
)
def test_the_density_given_the_effects_is_that_of_the_patterns(table, response, how, random):
    model = bhlm.Model(f"{response} ~ x + {random}", table, **how)
    built = model.pymc(form="conditional")
    patterns = model.level_patterns
    names = list(patterns.groups)
    effects = [f"u|{built_name}" for built_name in names if f"u|{built_name}" in built.named_vars]
    assert len(effects) == len(names)
    held = built.replace_rvs_by_values([built["beta"], *(built[u] for u in effects)])
    evaluate = built.compile_fn([*held, built.observedlogp])
    rng = np.random.default_rng(1)
    point = {
        name: np.asarray(value) + 0.3 * rng.standard_normal(np.shape(value))
        for name, value in built.initial_point().items()
    }
    beta, *us, logp = evaluate(point)
    eta = patterns.offset + patterns.take(patterns.fixed) @ beta
    for factor, codes, u in zip(patterns.factors, patterns.codes, us, strict=True):
        columns = tuple(name for block in factor.blocks for name in block)
        eta = eta + np.sum(patterns.take(columns) * u[codes], axis=1)
    n, y = patterns.n, patterns.y
    if patterns.family.link == "log":
        wanted = stats.poisson.logpmf(y, n * np.exp(eta)).sum()
    else:
        p = special.expit(eta) if patterns.family.link == "logit" else -np.expm1(-np.exp(eta))
        wanted = stats.binom.logpmf(y, n, p).sum()
    assert float(logp) == pytest.approx(wanted, abs=1e-8)


def test_priors_have_the_scale_of_the_link(table):
    model = bhlm.Model(f"hit ~ x + {CROSSED}", table, family="bernoulli")
    one = bhlm.Model("hit ~ x + (1 | class)", table, family="bernoulli")
    values = {}
    for name, each in (("several", model), ("one", one)):
        built = each.pymc(form="conditional")
        fixed = next(free for free in built.free_RVs if free.name.startswith("beta"))
        values[name] = [np.asarray(given.eval()) for given in fixed.owner.inputs[2:]]
    for one_, two in zip(values["several"], values["one"], strict=True):
        np.testing.assert_allclose(one_, two)


def test_what_is_not_there_names_the_way_out(table):
    model = bhlm.Model(f"hit ~ x + {CROSSED}", table, family="bernoulli")
    with pytest.raises(ArgumentError, match=r"pm.sample\(\) draws from model.pymc\(form='cond"):
        model.sample(seed=1)
    with pytest.raises(ArgumentError, match="give form='conditional'"):
        model.pymc()
    with pytest.raises(PriorError, match="has none; leave it out"):
        model.pymc(form="conditional", priors=bhlm.Priors(sigma=bhlm.HalfNormal(1.0)))
