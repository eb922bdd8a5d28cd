"""Maximum likelihood of the families, against exact values and what other programs print."""

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bhlm.errors import BhlmError, IdentifiabilityError
from bhlm.fits.family_fit import FamilyFit
from bhlm.fits.model import Model
from bhlm.sources.datasets import load_dataset

pytestmark = pytest.mark.wide

REFERENCE = Path(__file__).parents[1] / "reference" / "glmm.toml"
GLMM = tomllib.loads(REFERENCE.read_text(encoding="utf-8"))
EXACT = GLMM["computed"]
# The reference is good to its last digit, 1e-8 in the log-likelihood and in estimates.
LOGLIK, ESTIMATE = 1e-7, 1e-5
# What lme4 reaches of its own criterion.
LME4 = 2e-6

FORMULAS = {
    "contraception": "use ~ urban + age + C(livch) + (1 | district)",
    "toenail": "y ~ treatment * time + (1 | patientID)",
    "cbpp": "incidence / size ~ C(period) + (1 | herd)",
}
NAMES = {
    **{
        f"livch{end}": f"C(livch)[{level}]"
        for end, level in zip("123", ["1", "2", "3+"], strict=True)
    },
    **{f"period{k}": f"C(period)[{k}]" for k in (2, 3, 4)},
    "var(district)": "var(Intercept|district)",
    "sd(patientID)": "sd(Intercept|patientID)",
    "sd(herd)": "sd(Intercept|herd)",
}


def fit(name: str, **options: object) -> FamilyFit:
    family = "binomial" if name == "cbpp" else "bernoulli"
    found = Model(FORMULAS[name], load_dataset(name), family=family).ml(**options)
    assert isinstance(found, FamilyFit)
    return found


@pytest.fixture(scope="module")
def fits() -> dict[str, FamilyFit]:
    return {name: fit(name) for name in FORMULAS}


@pytest.mark.parametrize("name", FORMULAS)
def test_exact_estimates(fits: dict[str, FamilyFit], name: str) -> None:
    found = fits[name]
    wanted = EXACT["cbpp_exact" if name == "cbpp" else name]
    estimates = found.estimates["estimate"]
    checked = 0
    for key, value in wanted.items():
        if (own := NAMES.get(key, key)) in estimates.index:
            assert estimates[own] == pytest.approx(value, abs=ESTIMATE), key
            checked += 1
    assert checked == len(found.beta) + 1
    assert found.converged
    assert not found.singular
    assert found.error is not None
    assert found.error < 1e-8
    constant = found.patterns.constant if name == "cbpp" else 0.0
    key = "bernoulli_loglik" if name == "cbpp" else "loglik"
    assert found.loglik - constant == pytest.approx(wanted[key], abs=LOGLIK)


def test_laplace_and_fixed_nodes_of_lme4() -> None:
    cbpp = fit("cbpp", nagq=1)
    assert cbpp.loglik == pytest.approx(
        float(GLMM["published"]["cbpp_laplace"]["loglik"]), abs=LME4
    )
    assert cbpp.error is None


@pytest.mark.slow
def test_laplace_of_contraception() -> None:
    laplace = EXACT["contraception"]["laplace_lme4"]
    assert fit("contraception", nagq=1).loglik == pytest.approx(laplace, abs=1e-4)


# lme4 1.1-31 with glmerControl(tolPwrss = 1e-13): log-likelihood and intercept. By its default,
# which GLMM has, its inner loop stops early, and what it prints is off by up to 0.0065.
TIGHT = {
    1: (-627.808934535, -2.523349538),
    5: (-630.018634640, -1.457351121),
    9: (-625.566768610, -1.574332615),
    15: (-625.210621624, -1.647349868),
    25: (-625.415893649, -1.614585985),
    50: (-625.397343960, -1.618337381),
}


@pytest.mark.parametrize("nodes", TIGHT)
def test_fixed_nodes_of_toenail(nodes: int) -> None:
    found = fit("toenail", nagq=nodes)
    loglik, intercept = TIGHT[nodes]
    assert found.loglik == pytest.approx(loglik, abs=LME4)
    assert found.beta[0] == pytest.approx(intercept, abs=1e-4)
    assert abs(found.loglik - EXACT["toenail"]["loglik"]) > 1e-4
    printed = EXACT["toenail_by_nodes_lme4"].get(f"nodes{nodes}")
    if printed is not None:
        assert found.loglik == pytest.approx(printed, abs=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("nodes", "key"), [(1, "laplace_deviance"), (7, "deviance")])
def test_fixed_nodes_of_contraception(nodes: int, key: str) -> None:
    """What MixedModels.jl prints; its optimiser stops within 1e-4 of the least deviance."""
    table = load_dataset("contraception")
    table["place"] = table["urban"].astype(str) + ":" + table["district"].astype(str)
    formula = "use ~ age + I(age**2) + urban + C(livch) + (1 | place)"
    found = -2.0 * Model(formula, table, family="bernoulli").ml(nagq=nodes).loglik
    printed = float(GLMM["published"]["contra_agq7"][key])
    assert printed - 1e-4 < found < printed


def test_recoding_changes_nothing_else(fits: dict[str, FamilyFit]) -> None:
    """A covariate far from zero and in other units, and groups in another order."""
    table = load_dataset("contraception").sample(frac=1.0, random_state=1)
    table = table.assign(age=2000.0 + 10.0 * table["age"])
    moved = Model(FORMULAS["contraception"], table, family="bernoulli").ml()
    before = fits["contraception"]
    assert moved.loglik == pytest.approx(before.loglik, abs=1e-9)
    np.testing.assert_allclose(moved.beta[1], before.beta[1], atol=1e-9)
    np.testing.assert_allclose(10.0 * moved.beta[2], before.beta[2], atol=1e-9)
    np.testing.assert_allclose(moved.g, before.g, atol=1e-9)


def test_zeros_for_ones(fits: dict[str, FamilyFit]) -> None:
    """The logit of failures is the opposite one."""
    table = load_dataset("toenail").assign(y=lambda t: 1 - t["y"])
    turned = Model(FORMULAS["toenail"], table, family="bernoulli").ml()
    np.testing.assert_allclose(turned.beta, -fits["toenail"].beta, atol=1e-7)
    assert turned.loglik == pytest.approx(fits["toenail"].loglik, abs=1e-8)


def test_standard_errors_are_of_the_observed_information(fits: dict[str, FamilyFit]) -> None:
    """By differences of the likelihood in (beta, G), from a program of its own in NumPy."""
    found = fits["cbpp"]
    patterns = found.patterns
    x = patterns.take(patterns.fixed)
    axis, gap = np.linspace(-10.0, 10.0, 2001, retstep=True)

    def loglik(point: np.ndarray) -> float:
        eta = x @ point[:4]
        eta = eta[:, None] + np.sqrt(point[4]) * axis
        terms = patterns.y[:, None] * eta - patterns.n[:, None] * np.logaddexp(0.0, eta)
        total = np.add.reduceat(terms, patterns.starts[:-1], axis=0) + stats.norm.logpdf(axis)
        peak = total.max(axis=1, keepdims=True)
        return float((peak[:, 0] + np.log(np.exp(total - peak).sum(axis=1) * gap)).sum())

    point = np.append(found.beta, found.g[0, 0])
    assert loglik(point) + patterns.constant == pytest.approx(found.loglik, abs=1e-9)
    step, size = 1e-4, len(point)
    hessian = np.empty((size, size))
    for i, e in enumerate(step * np.eye(size)):
        for j, f in enumerate(step * np.eye(size)):
            pairs = ((e + f, 1), (e - f, -1), (f - e, -1), (-e - f, 1))
            hessian[i, j] = sum(s * loglik(point + by) for by, s in pairs) / (4 * step**2)
    np.testing.assert_allclose(found.joint_cov, np.linalg.inv(-hessian), rtol=1e-5, atol=1e-8)


def simulate(seed: int, *, sd: float, groups: int = 30, size: int = 10) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    x = rng.normal(size=len(g))
    eta = -0.5 + 0.8 * x + sd * rng.normal(size=groups)[g]
    y = (rng.uniform(size=len(g)) < 1.0 / (1.0 + np.exp(-eta))).astype(int)
    return pd.DataFrame({"g": g, "x": x, "y": y, "c": rng.poisson(np.exp(0.3 * eta))})


def test_boundary_is_a_result_with_advice() -> None:
    # Successes spread evenly over the groups: less variation than chance has.
    table = simulate(1, sd=0.0)
    table["y"] = (np.arange(len(table)) % 2 == 0).astype(int)
    found = Model("y ~ 1 + (1 | g)", table, family="bernoulli").ml()
    assert found.converged
    assert found.singular
    assert found.g[0, 0] == 0.0
    assert found.loglik == pytest.approx(found.linear_loglik, abs=1e-8)
    assert "var(Intercept|g) = 0" in found.advice
    # Of an intercept alone there is nothing to make independent.
    assert found.advice.endswith("drop the term")
    assert np.isnan(found.estimates.loc["var(Intercept|g)", "se"])
    assert np.isfinite(found.estimates.loc["Intercept", "se"])
    assert found.lr_test["p"] == 1.0


@pytest.mark.parametrize("seed", range(6))
def test_without_variance_the_ratio_is_zero_and_p_is_one(seed: int) -> None:
    """Whatever the rounding of two log-likelihoods, as of those of successes in turn."""
    table = simulate(seed, sd=0.0)
    table["y"] = np.arange(len(table)) % 2
    found = Model("y ~ x + (1 | g)", table, family="bernoulli").ml()
    assert found.singular
    assert found.lr_test == {"chi2": 0.0, "df": 1, "p": 1.0}


def test_separation_is_told_by_name() -> None:
    table = simulate(2, sd=1.0)
    table["level"] = np.where(table["x"] > 1.2, "c", np.where(table["x"] > 0.0, "b", "a"))
    table.loc[table["level"] == "c", ["y", "c"]] = [1, 0]
    for response, family in (("y", "bernoulli"), ("c", "poisson")):
        with pytest.raises(IdentifiabilityError, match=r"'level\[c\]' foretells .*separation"):
            Model(f"{response} ~ level + (1 | g)", table, family=family).ml()


def cut(*, groups: int = 8, size: int = 6) -> pd.DataFrame:
    """Return responses that x foretells within each class, and does not over all of them."""
    g = np.repeat(np.arange(groups), size)
    x = np.tile(np.arange(size) / 2.0, groups)
    cuts = np.array([0.25, 2.25, 0.75, 1.75, 1.25, 2.25, 0.25, 1.25])[:groups]
    return pd.DataFrame({"g": g, "h": g // 2, "x": x, "y": (x > cuts[g]).astype(int)})


@pytest.mark.parametrize("random", ["(1 | g)", "(1 | h/g)"])
@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_separation_given_the_groups_is_told(link: str, random: str) -> None:
    """All effects and SDs grow without end; with one row against the rule they do not."""
    table = cut()
    with pytest.raises(IdentifiabilityError, match=r"given the effects of .* foretell every 'y'"):
        Model(f"y ~ x + {random}", table, family="bernoulli", link=link).ml()
    table.loc[[2, 33], "y"] = 1 - table.loc[[2, 33], "y"]
    found = Model(f"y ~ x + {random}", table, family="bernoulli", link=link).ml()
    assert found.converged
    assert found.estimates["estimate"].abs().max() < 50.0


def test_a_search_beyond_all_numbers_fails_in_words() -> None:
    """Where means under- and overflow there are no derivatives: a result with advice."""
    x = [.6, -.7, 1, -.1, -1.2, -.8, .3, 1.7, .7, -.2, -1.1, -1.6, .2, -.3, -1.2, -1.5, -.6, .1,
         .1, -1, -.7]  # fmt: skip
    table = pd.DataFrame({"g": np.repeat(np.arange(5), [7, 3, 1, 4, 6]), "x": x})
    table["y"] = table.index.isin([7, 8, 9, 11]).astype(int)
    model = Model("y ~ x + (x | g)", table, family="bernoulli", link="cloglog")
    try:
        found = model.ml()
    except IdentifiabilityError as told:
        assert "separation" in str(told)
    else:
        assert not found.converged
        assert "do not report these estimates" in found.advice


@pytest.mark.parametrize(
    ("change", "formula", "message"),
    [
        ({"y": 0}, "y ~ x + (1 | g)", "nothing to model"),
        ({"y": lambda t: t["g"] % 2}, "y ~ x + (1 | g)", "successes alone or failures alone"),
        ({"h": lambda t: t.index}, "y ~ x + (1 | h)", "more than one trial"),
        ({"w": lambda t: 2.0 * t["x"]}, "y ~ x + w + (1 | g)", "linear combination"),
    ],
)
def test_what_cannot_be_identified(change: dict, formula: str, message: str) -> None:
    table = simulate(3, sd=1.0).assign(**change)
    with pytest.raises(IdentifiabilityError, match=message) as caught:
        Model(formula, table, family="bernoulli").ml()
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused_in_one_line() -> None:
    table = simulate(4, sd=1.0).assign(h=lambda t: t["g"] // 5)
    model = Model("y ~ x + (1 | g)", table, family="bernoulli")
    for call in (model.reml, model.rows):
        with pytest.raises(BhlmError, match=r"family='bernoulli'|single rows"):
            call()
    with pytest.raises(BhlmError, match="family='binomial'"):
        Model("y / c ~ x + (1 | g)", table)
    with pytest.raises(BhlmError, match="nagq"):
        Model("x ~ 1 + (1 | g)", table).ml(nagq=3)


def test_ml_of_the_gaussian_is_that_of_reml(hsb: pd.DataFrame) -> None:
    model = Model("mathach ~ 1 + (1 | school)", hsb)
    assert model.ml().loglik == model.reml(method="ml").loglik
