"""Posteriors of families with nested factors: density, draws of the effects, and the runs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import bhlm
from bhlm import HalfNormal, Model, Normal, Priors
from bhlm.bayes.density import evaluate_priors
from bhlm.bayes.draws import Settings
from bhlm.bayes.family.density import build_family, log_family
from bhlm.bayes.family.level_density import centre_nest, locate_nest
from bhlm.bayes.family.level_draws import integrate_levels
from bhlm.bayes.family.level_sampling import sample_level_patterns
from bhlm.bayes.family.tails import index_family
from bhlm.bayes.level_density import LevelDensity, build_levels, constrain_levels, log_levels
from bhlm.bayes.packing import evaluate_nested_family, pack_levels
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.errors import ArgumentError, DataError, PriorError
from bhlm.fits.family_level_bayes_fit import FamilyLevelBayesFit
from bhlm.likelihood.level_pattern import pack_nodes
from bhlm.likelihood.nested_families import NestIntegrator, WhitenedNest, whiten_nest
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.patterns import whiten_patterns
from bhlm.moments.level_patterns import LevelPatterns
from tests.nested_quadrature import KINDS, differentiate, draw, integrate_densely, reduce

pytestmark = pytest.mark.wide

SHORT = {"draws": 60, "tune": 60, "chains": 2, "seed": 3}
SAME = 1e-9  # of densities and gradients
TWO = "(1 | school/class)"


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(f"y ~ x + {TWO}", draw("bernoulli", schools=6), family="bernoulli")


@pytest.fixture(scope="module")
def fit(model: Model) -> FamilyLevelBayesFit:
    return model.sample(**SHORT)


def build(patterns: LevelPatterns) -> tuple[LevelDensity, WhitenedNest, object]:
    """Return a density whose integrals are as good as doubles are, and what it is of."""
    structure = arrange_prior(patterns)
    white = whiten_nest(patterns, structure.parts)
    priors = resolve_priors(None, patterns, structure=structure)
    density = build_levels(white, priors, structure)
    nodes = NestIntegrator(white)
    nodes.refine(np.zeros(white.p), [0.7 * np.eye(q) for q in white.sizes], tolerance=1e-13)
    return density._replace(pattern=pack_nodes(nodes)), white, (priors, structure)


def evaluate_by_hand(x: np.ndarray, density: LevelDensity, white: WhitenedNest, how) -> float:
    """Return the log density, but for the constant Jacobian of signed SDs, by dense sums."""
    priors, structure = how
    at = constrain_levels(density, white, priors.frame, x[None])
    terms = evaluate_priors(priors, structure, at)
    return integrate_densely(white, *locate_nest(density, white, x)) + sum(
        float(np.sum(each)) for each in terms.values()
    )


@pytest.mark.parametrize(
    ("name", "link"), KINDS[:1] + [pytest.param(*k, marks=pytest.mark.slow) for k in KINDS[1:]]
)
def test_density_and_gradient_are_those_of_dense_quadrature(name: str, link: str) -> None:
    density, white, how = build(reduce(draw(name), name, link, TWO))
    middle = np.array([-0.3, 0.4, 0.9, 0.6])
    gaps = []
    for move in (0.0, 0.2, -0.3):
        x = middle + move * np.array([1.0, -0.7, 0.5, 0.4])
        gaps.append(log_levels(x, density)[0] - evaluate_by_hand(x, density, white, how))
    assert np.ptp(gaps) < SAME
    gradient = log_levels(middle, density)[1]
    for k in (1, 2, 3):

        def slide(step: float, k: int = k) -> float:
            x = middle + step * np.eye(4)[k]
            return evaluate_by_hand(x, density, white, how)

        assert gradient[k] == pytest.approx(differentiate(slide), abs=SAME)


@pytest.mark.parametrize(
    "random",
    [
        "(1 | class) + (1 | school)",
        pytest.param("(1 | school/teacher/class)", marks=pytest.mark.slow),
        pytest.param("(1 | class) + (1 + x | school)", marks=pytest.mark.slow),
    ],
)
def test_gradient_is_that_of_the_value_in_any_order_of_factors(random: str) -> None:
    density, white, _ = build(reduce(draw("bernoulli"), "bernoulli", "logit", random))
    x = np.linspace(0.6, 0.9, density.dimension)
    value, gradient = log_levels(x, density)
    for k, step in enumerate(1e-5 * np.eye(len(x))):
        up, down = log_levels(x + step, density)[0], log_levels(x - step, density)[0]
        assert gradient[k] == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-6)
    packed = evaluate_nested_family(x, pack_levels(density))  # x and z are one here
    assert packed[0] == value
    assert np.array_equal(packed[1], gradient)
    # By the kernels of maximum likelihood, which go on from the modes that they found before.
    nodes = NestIntegrator(white)
    beta, lams = locate_nest(density, white, x)
    nodes.refine(beta, lams, tolerance=1e-13)
    none = density._replace(base=density.base._replace(use_likelihood=False))
    prior = log_levels(x, none)[0]
    assert value - prior == pytest.approx(nodes.evaluate(beta, lams).loglik, abs=SAME)


def test_a_factor_of_two_columns_alone_is_one_of_their_labels() -> None:
    table = draw("poisson", schools=4)
    table["both"] = table["school"] * 100 + table["class"]
    one = Model("y ~ x + (1 | both)", table, family="poisson")
    two = Model("y ~ x + (1 | school:class)", table, family="poisson")
    density, _, _ = build(two.level_patterns)
    structure = arrange_prior(one.patterns)
    white = whiten_patterns(one.patterns, structure)
    priors = resolve_priors(None, one.patterns, structure=structure)
    known = build_family(white, priors, structure)
    known.nodes.refine(np.zeros(2), 0.7 * np.eye(1), tolerance=1e-13)
    for x in (np.array([0.2, 0.3, 0.6]), np.array([-0.4, 0.1, -1.2])):
        ours, theirs = log_levels(x, density), log_family(x, known)
        assert ours[0] == pytest.approx(theirs[0], abs=SAME)
        assert ours[1] == pytest.approx(theirs[1], abs=SAME)
    found = two.sample(seed=1, draws=30, tune=30, chains=2)
    assert found.error < 1e-3
    assert list(found.estimates.index)[2:] == [
        f"{k}(Intercept|school:class)" for k in ("var", "sd")
    ]
    u = found.effect_draws("school:class").values
    wanted = two.ml().group_effects("school:class")["estimate"]
    assert np.corrcoef(u.mean(axis=(0, 1))[:, 0], wanted)[0, 1] > 0.9


def stack_alike(copies: int) -> pd.DataFrame:
    """Return schools that are all alike: two classes, of which one answers twice as well."""
    one = pd.DataFrame({"class": [0, 1], "y": [2.0, 5.0], "t": 6})
    table = pd.concat([one] * copies, ignore_index=True)
    table["school"] = np.arange(len(table)) // 2
    table["class"] += 2 * table["school"]
    return table


def test_draws_of_effects_have_the_posterior_distribution() -> None:
    copies = 3000
    model = Model(f"y / t ~ 1 + {TWO}", stack_alike(copies), family="binomial")
    structure = arrange_prior(model.level_patterns)
    nodes = NestIntegrator(whiten_nest(model.level_patterns, structure.parts))
    nodes.steps[:] = 0.5
    at = Parameters(np.array([[0.3]]), np.diag([1.1, 0.8])[None], np.ones(1))
    drawn = integrate_levels(nodes, structure, at, seed=1)
    school, classes = drawn.effects[0][0, :, 0], drawn.effects[1][0, :, 0].reshape(-1, 2)
    u = np.linspace(-8.0, 8.0, 1601)
    eta = 0.3 + u[:, None] + u  # of school by class
    inner = [
        np.exp(y * special.log_expit(eta) + (6 - y) * special.log_expit(-eta))
        * stats.norm.pdf(u, scale=0.8)
        for y in (2, 5)
    ]
    outer = stats.norm.pdf(u, scale=1.1)
    within = [each.sum(axis=1) for each in inner]
    own = outer * within[0] * within[1]
    first = (outer[:, None] * inner[0] * within[1][:, None]).sum(axis=0)
    for found, weight in ((school, own), (classes[:, 0], first)):
        cdf = np.cumsum(weight) / weight.sum()
        assert stats.kstest(found, lambda x, cdf=cdf: np.interp(x, u, cdf)).pvalue > 1e-3
        assert len(np.unique(np.round(found, 9))) > 2900  # no lattice is left in them
    gap = u[1] - u[0]
    assert drawn.logliks[0, 1] == pytest.approx(np.log(own.sum() * gap**3), abs=1e-8)
    # Together: the mean of products of the effects of one school.
    joint = outer[:, None] * inner[0] * within[1][:, None] / own.sum()
    both = outer * (inner[0] @ u) * (inner[1] @ u)
    for products, wanted in (
        (school * classes[:, 0], u @ joint @ u),
        (classes[:, 0] * classes[:, 1], both.sum() / own.sum()),
    ):
        assert abs(products.mean() - wanted) < 4.0 * products.std() / np.sqrt(copies)
    assert drawn.error < 1e-3


@pytest.mark.parametrize(
    "random",
    [
        pytest.param("(1 | class) + (1 | school) + (1 | teacher)", marks=pytest.mark.slow),
        "(1 + x || school) + (1 | class)",
    ],
)
def test_draws_have_the_moments_that_maximum_likelihood_integrates(random: str) -> None:
    patterns = reduce(draw("poisson"), "poisson", "log", random)
    structure = arrange_prior(patterns)
    white = whiten_nest(patterns, structure.parts)
    nodes = NestIntegrator(white)
    beta, lams = np.array([-0.2, 0.3]), [0.6 * np.eye(q) for q in white.sizes]
    nodes.refine(beta, lams, tolerance=1e-6)
    at = nodes.evaluate(beta, lams)
    copies = 1500
    lam = np.zeros((white.q, white.q))
    for start, own in zip(white.spans, lams, strict=True):
        lam[start : start + len(own), start : start + len(own)] = own
    root = np.broadcast_to(white.basis @ lam, (copies, white.q, white.q))
    parameters = Parameters(
        np.broadcast_to(white.fixed @ beta, (copies, white.p)), root, np.ones(copies)
    )
    drawn = integrate_levels(nodes, structure, parameters, seed=4)
    assert drawn.error < 1e-4
    for place, (u, span) in enumerate(zip(drawn.effects, structure.spans, strict=True)):
        level = white.order.index(place)
        own = root[0][span, span]
        units = white.levels[level]
        mean, cov = at.means[level] @ own.T, own @ at.covs[level] @ own.T
        sd = np.sqrt(np.einsum("jaa->ja", cov))
        assert np.max(np.abs(u.mean(axis=0)[units] - mean) / sd) < 5.0 / np.sqrt(copies)
        assert u.std(axis=0)[units] == pytest.approx(sd, rel=0.12)


def test_fit_tells_what_it_is(model: Model, fit: FamilyLevelBayesFit) -> None:
    assert fit.shape == (2, 60)
    names = ["var(Intercept|school)", "var(Intercept|school:class)"]
    scaled = ["sd(Intercept|school)", "sd(Intercept|school:class)"]
    assert list(fit.estimates.index) == ["Intercept", "x", *names, *scaled]
    held = set(fit.data["posterior"].data_vars)
    assert {"beta", "sd|school", "cov|school:class", "u|school", "u|school:class"} <= held
    assert "sigma" not in held
    assert fit.data["log_likelihood"]["loglik"].shape == (2, 60, 6)
    assert fit.error < 1e-4
    text = fit.summary()
    assert "bernoulli with logit link" in text
    assert "24 levels of 'school:class' with 4 to 4 rows" in text
    assert "log-likelihood known to" in text
    assert "Residual" not in text
    assert repr(fit)
    assert fit.group_effects().shape == (30, 7)
    assert list(fit.group_effects("school").columns)[:2] == ["school", "coefficient"]
    assert fit.effect_draws("school:class").shape == (2, 60, 24, 1)
    assert float(fit.probability("x > 0")) == pytest.approx((fit.draws["x"] > 0).mean())
    assert len(fit.sensitivity().table) == 6
    assert fit.model is model


def test_derived_quantities(model: Model, fit: FamilyLevelBayesFit) -> None:
    ratios = fit.ratios()
    assert ratios.loc["x", "ratio"] == pytest.approx(np.exp(np.median(fit.draws["x"])))
    school, place = (fit.draws[f"var(Intercept|{each})"] for each in ("school", "school:class"))
    total = school + place + np.pi**2 / 3.0
    found = fit.icc().draws
    assert found["share(school)"] == pytest.approx(school / total)
    assert found["icc(school:class)"] == pytest.approx((school + place) / total)
    ratio = np.exp(np.sqrt(2.0 * place) * special.ndtri(0.75))
    assert found["median_ratio(school:class)"] == pytest.approx(ratio)
    assert set(fit.r_squared().draws) == {"marginal", "conditional"}
    link, response = fit.effects("x", scale="link"), fit.effects("x")
    assert link["mean"].iloc[0] == pytest.approx(fit.draws["x"].mean())
    assert 0.0 < abs(response["mean"].iloc[0]) < abs(link["mean"].iloc[0])
    assert len(fit.effect_lines("x", values=[0.0, 1.0, 2.0])) == 3
    told = fit.to_dict()
    assert told["integration"]["error"] == fit.error
    assert set(told["ratios"]) == {"Intercept", "x"}
    assert "icc(school)" in told["icc"]


def test_predictions(model: Model, fit: FamilyLevelBayesFit) -> None:
    new = pd.DataFrame({"school": [3, 3, 99], "class": [13, 98, 99], "x": 1.0})
    linear = model.predict(fit, new, scale="link", new_groups="population")
    beta = fit.flat.beta
    eta = beta[:, 0] + beta[:, 1] + fit.all_effects[0][:, 3, 0] + fit.all_effects[1][:, 13, 0]
    assert linear["estimate"].iloc[0] == pytest.approx(eta.mean())
    assert linear["upper"].iloc[0] == pytest.approx(np.quantile(eta, 0.975))
    assert linear["se"].iloc[2] > linear["se"].iloc[0]
    mean = model.predict(fit, new, new_groups="population")
    assert mean["estimate"].iloc[0] == pytest.approx(special.expit(eta).mean())
    everyone = model.predict(fit, new, kind="population")
    assert everyone["estimate"].nunique() == 1
    assert len(model.predict(fit)) == 96
    with pytest.raises(DataError, match="a level of 'school' that the fit has not seen"):
        model.predict(fit, new)
    with pytest.raises(ArgumentError, match="scale='odds'"):
        model.predict(fit, new, scale="odds", new_groups="population")


def test_figures_and_tables_take_it(model: Model, fit: FamilyLevelBayesFit) -> None:
    assert len(fit.plot_effects("school:class").table) == 24
    drawn = fit.plot_effects("school:class", within={"school": 3})
    assert set(drawn.table["group"]) == {f"3:{each}" for each in range(12, 16)}
    with pytest.raises(ArgumentError, match="scale='response' is not there yet"):
        bhlm.plots.level_caterpillar.plot_factor(fit, "school", scale="response")
    for figure in (bhlm.plots.plot_effects(fit, "x"), bhlm.plots.plot_forest(fit)):
        assert len(figure.table)
    assert len(bhlm.plots.plot_predictive(fit).table)
    shown = str(bhlm.table([fit], ratios=True))
    assert "class" in shown


def test_checks(fit: FamilyLevelBayesFit) -> None:
    found = fit.check(draws=200)
    assert found.group == "school"
    assert len(found.groups) == 6
    assert found.calibration["n"].sum() == 96
    classes = fit.check("school:class", kind="new groups", draws=200)
    assert len(classes.groups) == 24
    assert "tenth" in found.summary()
    with pytest.raises(ArgumentError, match="not a grouping factor"):
        fit.check("pupil")
    loo = fit.loo()
    assert len(loo.table) == 6
    assert loo.elpd < fit.data["log_likelihood"]["loglik"].sum("school").mean()


def test_checks_see_effects_that_are_wrong(fit: FamilyLevelBayesFit) -> None:
    far = FamilyLevelBayesFit.of(fit.with_data(fit.data.copy(deep=True)))
    far.data["posterior"]["u|school"].values[..., 2, 0] = -9.0
    assert not far.check(draws=200).ok


def test_run_repeats_on_any_number_of_cores(model: Model) -> None:
    short = {"draws": 8, "tune": 10, "chains": 2, "seed": 3}
    one, two = model.sample(**short, cores=1), model.sample(**short, cores=2)
    for name, draws in one.draws.items():
        assert np.array_equal(draws, two.draws[name])
    for ours, theirs in zip(one.all_effects, two.all_effects, strict=True):
        assert np.array_equal(ours, theirs)


def test_effects_are_drawn_when_asked_for(fit: FamilyLevelBayesFit) -> None:
    tree = fit.data.drop_nodes("log_likelihood").copy()
    lean = FamilyLevelBayesFit.of(fit.with_data(tree))
    kept = [name for name in fit.data["posterior"].data_vars if not name.startswith("u|")]
    lean.data["posterior"] = lean.data["posterior"].to_dataset()[kept]
    # The density's nodes start from other modes, by which a draw moves within rounding.
    ours, theirs = lean.group_effects()["mean"], fit.group_effects()["mean"]
    assert ours.to_numpy() == pytest.approx(theirs, abs=0.3)
    assert lean.sum_logliks() == pytest.approx(fit.sum_logliks(), abs=1e-5)


def test_saved_fit_comes_back(fit: FamilyLevelBayesFit, tmp_path: Path) -> None:
    path = tmp_path / "fit.zarr"
    fit.save(path)
    again = bhlm.load(path)
    assert isinstance(again, FamilyLevelBayesFit)
    assert again.estimates.equals(fit.estimates)
    assert again.moments.formula == fit.moments.formula
    assert np.array_equal(again.moments.codes, fit.moments.codes)
    for name in ("n", "y", "offset", "values", "rows"):
        assert np.array_equal(getattr(again.moments, name), getattr(fit.moments, name))
    for ours, theirs in zip(again.all_effects, fit.all_effects, strict=True):
        assert np.array_equal(ours, theirs)
    assert again.group_effects().equals(fit.group_effects())
    assert again.priors == fit.priors
    assert again.error == fit.error
    assert np.array_equal(again.nodes, fit.nodes)
    assert again.tail_indices == fit.tail_indices
    assert again.summary() == fit.summary()


def test_what_cannot_be_done_is_told_in_one_line(model: Model, fit: FamilyLevelBayesFit) -> None:
    with pytest.raises(PriorError, match="residual SD"):
        model.sample(seed=1, priors=Priors(sigma=HalfNormal(1.0)))
    with pytest.raises(PriorError, match="no grouping factor"):
        model.sample(seed=1, priors=Priors(sd={"pupil": HalfNormal(1.0)}))
    with pytest.raises(ArgumentError, match="sampler='pymc'"):
        model.sample(seed=1, sampler="pymc")
    with pytest.raises(ArgumentError, match="take method='nuts'"):
        model.sample(seed=1, method="independent")
    table = draw("bernoulli", schools=6)
    wide = Model("y ~ x + (x | school) + (x + o | class)", table, family="bernoulli")
    with pytest.raises(ArgumentError, match="4 of all are integrated; drop some"):
        wide.sample(seed=1)
    table["item"] = np.arange(len(table)) % 4
    crossed = Model("y ~ x + (1 | class) + (1 | item)", table, family="bernoulli")
    with pytest.raises(ArgumentError, match=r"class and item cross.*Laplace.*no density"):
        crossed.sample(seed=1)
    with pytest.raises(ArgumentError, match="not a grouping factor"):
        fit.effect_draws("pupil")
    with pytest.raises(ArgumentError, match="not there yet"):
        fit.average_effects("x")
    with pytest.raises(ArgumentError, match="too few"):
        fit.check(draws=10)
    with pytest.raises(ArgumentError, match="scale='odds'"):
        fit.effects("x", scale="odds")


def test_tails_count_the_units_that_do_not_recede() -> None:
    table = draw("bernoulli", schools=6, seed=2)
    patterns = reduce(table, "bernoulli", "logit", TWO)
    structure = arrange_prior(patterns)
    white = whiten_nest(patterns, structure.parts)
    flat = resolve_priors(Priors.flat(), patterns, structure=structure)
    mixed = [
        int(table.groupby(each)["y"].agg(lambda y: 0.0 < y.mean() < 1.0).sum())
        for each in ("school", "class")
    ]
    found = index_family(patterns, structure, flat, white)
    # A density ~ sd of each SD, and two fixed effects that grow with it.
    alone = [count - 2 - 2 for count in mixed]
    both = mixed[1] - 2 - 4
    assert found["sd(Intercept|school)"] == min(alone[0], both)
    assert found["sd(Intercept|school:class)"] == min(alone[1], both)
    held = resolve_priors(
        Priors(sd=HalfNormal(1.0), fixed=Normal(0.0, 1.0)), patterns, structure=structure
    )
    assert min(index_family(patterns, structure, held, white).values()) > 100.0


def test_few_units_are_told_to_leave_the_tail_to_the_prior() -> None:
    table = draw("bernoulli", schools=2, rows=2)
    patterns = reduce(table, "bernoulli", "logit", TWO)
    settings = Settings(draws=20, tune=20, chains=2)
    found = sample_level_patterns(patterns, seed=1, settings=settings)
    (told,) = found.diagnostics.prior_bound
    assert "do not bound sd(Intercept|school)" in told
    given = Priors(sd={"school": HalfNormal(1.0), "school:class": HalfNormal(1.0)})
    found = sample_level_patterns(patterns, seed=1, settings=settings, priors=given)
    assert not found.diagnostics.prior_bound


def test_nodes_are_as_dense_as_is_asked_at_the_mode(model: Model) -> None:
    patterns = model.level_patterns
    structure = arrange_prior(patterns)
    white = whiten_nest(patterns, structure.parts)
    priors = resolve_priors(None, patterns, structure=structure)
    density, nodes = centre_nest(white, priors, structure)
    assert np.abs(log_levels(density.centre, density)[1]).max() < 1e-2
    at = locate_nest(density, white, density.centre)
    _, error = nodes.measure_error(*at, nodes.evaluate(*at))
    assert error < 1e-5


@pytest.mark.slow
def test_prior_alone(model: Model) -> None:
    priors = Priors(fixed=Normal(0.0, 1.0), sd={"school": HalfNormal(2.0)})
    found = model.sample(seed=4, prior_only=True, priors=priors)
    sd = found.draws["sd(Intercept|school)"]
    assert sd.mean() == pytest.approx(2.0 * np.sqrt(2.0 / np.pi), rel=0.1)
    u = found.effect_draws("school").values
    assert (u / sd[..., None, None]).std() == pytest.approx(1.0, rel=0.05)


@pytest.mark.slow
def test_conditional_model_of_pymc_has_the_same_posterior() -> None:
    import pymc as pm
    from arviz_stats.base import array_stats

    rng = np.random.default_rng(8)
    school, place = np.repeat(np.arange(12), 24), np.repeat(np.arange(36), 8)
    x = rng.integers(-1, 2, len(school)) / 1.0
    eta = 0.2 + 0.5 * x + rng.normal(0.0, 0.9, 12)[school] + rng.normal(0.0, 0.7, 36)[place]
    table = pd.DataFrame({"school": school, "class": place, "x": x})
    table["y"] = rng.poisson(np.exp(eta))
    model = Model(f"y ~ x + {TWO}", table, family="poisson")
    ours = model.sample(seed=6, target_accept=0.95)
    with model.pymc(form="conditional"):
        theirs = pm.sample(
            draws=2000, tune=1500, chains=4, random_seed=7, nuts_sampler="nutpie",
            target_accept=0.95, progressbar=False,
        )  # fmt: skip
    posterior = theirs["posterior"]
    columns = dict(
        zip(ours.moments.fixed, np.moveaxis(posterior["beta"].values, 2, 0), strict=True)
    )
    for name in ("school", "school:class"):
        columns[f"sd(Intercept|{name})"] = posterior[f"sd|{name}"].values[..., 0]
    for key, values in columns.items():
        row = ours.estimates.loc[key]
        error = values.std() / np.sqrt(array_stats.ess(values, chain_axis=0, draw_axis=1))
        assert abs(row["mean"] - values.mean()) < 4.0 * np.hypot(row["mcse_mean"], error)
    for name in ("school", "school:class"):
        u, v = ours.effect_draws(name).values, posterior[f"u|{name}"].values
        for at in range(0, u.shape[2], 5):
            errors = [
                each.std() / np.sqrt(array_stats.ess(each, chain_axis=0, draw_axis=1))
                for each in (u[:, :, at, 0], v[:, :, at, 0])
            ]
            gap = u[:, :, at].mean() - v[:, :, at].mean()
            assert abs(gap) < 4.5 * np.hypot(*errors), (name, at)
