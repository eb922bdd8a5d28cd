"""The pm.Model in its two forms: each against dense algebra, and against each other."""

import numpy as np
import pytest
from prior_sets import proper_examples
from scipy import stats
from simulate import dense_loglik, simulate_rows

from bhlm.bayes.density import evaluate_prior
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import (
    Cauchy,
    Exponential,
    Flat,
    Gamma,
    HalfCauchy,
    HalfNormal,
    Normal,
    StudentT,
)
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model

pytestmark = pytest.mark.wide

RELATIVE = 1e-8
MODE = "FAST_COMPILE"  # few values are asked for, so that machine code costs more than it saves
SETS = {
    "default": None,
    "flat": Priors.flat(),
    "heavy": Priors(Cauchy(0, 3), HalfCauchy(1.5), LKJ(1.0), HalfCauchy(2)),
    "light": Priors(StudentT(4, 1, 2), HalfNormal(2), LKJ(5.0), HalfNormal(3)),
    "away": Priors(Flat(), Gamma(2, 0.5), LKJ(0.7), Gamma(3, 1)),
    "mixed": Priors({"x": Normal(0, 1)}, {"Intercept": Gamma(2, 0.1)}, LKJ(2), Exponential(0.3)),
}
# PyTensor compiles each for seconds; the sampler's own density is held against SETS elsewhere.
QUICK = "mixed"
EACH = [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in SETS]


@pytest.mark.parametrize("prior", proper_examples(), ids=str)
def test_a_family_is_that_of_pymc(prior):
    import pymc as pm

    name, keywords = prior.pymc
    theirs = getattr(pm, name).dist(**dict(zip(keywords, prior.numbers, strict=True)))
    x = np.array([0.1, 0.7, 2.0, 9.0])
    expected = pm.logp(theirs, x).eval()
    np.testing.assert_allclose(evaluate_prior(prior, x), expected, rtol=RELATIVE, atol=RELATIVE)


@pytest.fixture(scope="module")
def functions():
    """Compiled log-densities are slow to make, so each model's is made once."""
    made = {}

    def compile_for(rows, form, priors, what):
        moments = rows.model.moments
        key = (moments.formula, moments.mean.tobytes(), form, repr(priors))
        if key not in made:
            made[key] = {"model": rows.model.pymc(form=form, priors=priors)}
        model = made[key]["model"]
        compilers = {
            "logp": lambda: model.compile_logp(jacobian=False, mode=MODE),
            "dlogp": lambda: model.compile_dlogp(mode=MODE),
            "full": lambda: model.compile_logp(mode=MODE),
            "read": lambda: compile_parameters(model),
        }
        if what not in made[key]:
            made[key][what] = compilers[what]()
        return made[key][what]

    return compile_for


def positions(model, count, seed):
    """Return random unconstrained points near the initial one."""
    rng = np.random.default_rng(seed)
    start = model.initial_point()
    for _ in range(count):
        yield {
            name: np.asarray(value + 0.4 * rng.normal(size=np.shape(value)))
            for name, value in start.items()
        }


def compile_parameters(model):
    """Return the function of an unconstrained point that gives beta, G and sigma."""
    names = [model["beta"], model["G"], model["sigma"]]
    return model.compile_fn(
        [*model.replace_rvs_by_values(names)], inputs=model.value_vars, mode=MODE,
        on_unused_input="ignore",
    )  # fmt: skip


@pytest.mark.parametrize(
    "random", ["x", *(pytest.param(each, marks=pytest.mark.slow) for each in ("1", "x + t"))]
)
def test_marginal_equals_conditional_with_u_integrated_out(random, functions):
    """Both minus their priors: the marginal's potential is the dense normal density of y."""
    rows = simulate_rows(1, random)
    marginal = functions(rows, "marginal", None, "model")
    conditional = functions(rows, "conditional", None, "model")
    logp = functions(rows, "marginal", None, "logp")
    read = functions(rows, "marginal", None, "read")
    prior = marginal.compile_logp(vars=marginal.free_RVs, jacobian=False, mode=MODE)
    joint = conditional.compile_logp(jacobian=False, mode=MODE)
    z_and_y = conditional.compile_logp(
        vars=[conditional["z"], conditional.observed_RVs[0]], jacobian=False, mode=MODE
    )
    turn = resolve_priors(None, rows.model.moments).frame.random
    for point in positions(marginal, 3, seed=2):
        beta, g, sigma = read(point)
        dense = dense_loglik(rows, beta, g, float(sigma) ** 2)
        assert float(logp(point)) - float(prior(point)) == pytest.approx(dense, rel=RELATIVE)
        # In the conditional form log p(z, y) - log p(z | y) = log p(y), at any z; p(z | y) is
        # the normal that dense algebra gives.
        # u is what stands on the effects at the columns' means, turned back.
        root = np.linalg.solve(turn, np.linalg.cholesky(turn @ g @ turn.T))
        rng = np.random.default_rng(3)
        groups = rows.model.moments.groups
        z = rng.normal(size=(len(groups), len(g)))
        at = point | {"z": z}
        log_posterior = 0.0
        for j, label in enumerate(groups):
            here = rows.labels == label
            loading = rows.z[here] @ root
            precision = np.eye(len(g)) + loading.T @ loading / sigma**2
            mean = np.linalg.solve(
                precision, loading.T @ (rows.y[here] - rows.x[here] @ beta) / sigma**2
            )
            log_posterior += stats.multivariate_normal.logpdf(z[j], mean, np.linalg.inv(precision))
        assert float(z_and_y(at)) - log_posterior == pytest.approx(dense, rel=RELATIVE)
        # And the whole conditional density has the same priors as the marginal one.
        difference = float(joint(at)) - log_posterior
        assert difference == pytest.approx(float(logp(point)), rel=RELATIVE)


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_gradient_equals_finite_differences(name, functions):
    rows = simulate_rows(6, "x")
    model = functions(rows, "marginal", SETS[name], "model")
    logp = functions(rows, "marginal", SETS[name], "full")
    gradient = functions(rows, "marginal", SETS[name], "dlogp")
    step = 1e-6
    for point in positions(model, 2, seed=5):
        differences = []
        for variable in model.value_vars:
            for i in range(point[variable.name].size):
                moved = []
                for sign in (1, -1):
                    value = point[variable.name].copy()
                    value.flat[i] += sign * step
                    moved.append(float(logp(point | {variable.name: value})))
                differences.append((moved[0] - moved[1]) / (2 * step))
        np.testing.assert_allclose(gradient(point), differences, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "random"),
    [
        pytest.param(name, random, marks=() if (name, random) == (QUICK, "x") else pytest.mark.slow)
        for name in SETS
        for random in ("1", "x")
    ],
)
def test_pymc_density_is_the_samplers(name, random, functions):
    """Up to a constant, and without Jacobians, both are one density of the same parameters."""
    from bhlm.bayes.density import build_density, constrain, log_density
    from bhlm.bayes.priors.resolve import resolve_priors
    from bhlm.likelihood.covariance import arrange
    from bhlm.likelihood.whitening import whiten

    rows = simulate_rows(6, random)
    moments = rows.model.moments
    white = whiten(moments, arrange(moments))
    priors = resolve_priors(SETS[name], moments)
    posterior = build_density(white, priors, arrange(moments))
    model = functions(rows, "marginal", SETS[name], "model")
    logp = functions(rows, "marginal", SETS[name], "logp")
    read = functions(rows, "marginal", SETS[name], "read")
    rng = np.random.default_rng(7)
    gaps = []
    for point in positions(model, 20, seed=8):
        beta, g, sigma = read(point)
        turned = priors.frame.random @ g @ priors.frame.random.T
        x = locate(white, posterior, beta, turned, float(sigma), rng)
        again = constrain(posterior, white, priors.frame, x[None])
        np.testing.assert_allclose(again[1][0] @ again[1][0].T, g, rtol=1e-9)
        ours = log_density(x, posterior)[0] - log_jacobian(posterior, x)
        gaps.append(float(logp(point)) - ours - log_measure(model, turned, name))
    # The constant is that of the flat and half-of-the-line priors; it must not vary.
    np.testing.assert_allclose(gaps, gaps[0], rtol=0, atol=RELATIVE * abs(float(logp(point))))


@pytest.mark.parametrize("covariance", ["identity", "exchangeable"])
def test_density_of_a_shared_sd_is_pymcs(covariance):
    """By (beta~, sd, w, sigma), where w is the variable of PyMC's beta distribution."""
    from bhlm.bayes.density import build_density, constrain, log_density
    from bhlm.bayes.priors.correlations import arrange_prior
    from bhlm.bayes.priors.resolve import resolve_priors
    from bhlm.likelihood.whitening import whiten

    rows = simulate_rows(6, "x + t")
    moments = rows.model.moments
    structure = arrange_prior(moments, covariance)
    white = whiten(moments, structure)
    given = Priors(sd=Exponential(0.5), corr=LKJ(1.5))
    resolved = resolve_priors(given, moments, structure=structure)
    density = build_density(white, resolved, structure)
    model = rows.model.pymc(covariance=covariance, priors=given)
    logp = model.compile_logp(jacobian=False, mode=MODE)
    read = model.compile_fn(
        model.replace_rvs_by_values([model["beta"], model["G"], model["scale"], model["sigma"]]),
        inputs=model.value_vars, mode=MODE, on_unused_input="ignore",
    )  # fmt: skip
    gaps = []
    for point in positions(model, 20, seed=8):
        beta, g, sd, sigma = read(point)
        share = (1.0 + 2.0 * g[1, 0] / g[0, 0]) / 3.0
        angle = [0.5 * np.log(share / (1.0 - share))] if covariance == "exchangeable" else []
        fixed = np.linalg.solve(white.fixed, (beta - white.ols) / white.scale)
        x = np.concatenate([fixed, [sd / density.unit[0]], angle, [np.log(sigma)]])
        root = constrain(density, white, resolved.frame, x[None])[1][0]
        np.testing.assert_allclose(root @ root.T, g, rtol=1e-9, atol=1e-12)
        jacobian = np.log(sigma) + (np.log(2.0 * share * (1.0 - share)) if angle else 0.0)
        gaps.append(float(logp(point)) - log_density(x, density)[0] + jacobian)
    np.testing.assert_allclose(gaps, gaps[0], rtol=0, atol=RELATIVE * abs(float(logp(point))))


def locate(white, posterior, beta, g, sigma, rng):
    """Return the sampler's position x of the parameters, with random signs of signed SDs."""
    p, q = white.p, white.q
    x = np.empty(posterior.dimension)
    x[:p] = np.linalg.solve(white.fixed, (beta - white.ols) / white.scale)
    sd = np.sqrt(np.diag(g))
    sign = np.where(posterior.signed, rng.choice([-1.0, 1.0], q), 1.0)
    x[p : p + q] = np.where(
        posterior.signed, sign * sd / posterior.unit, np.log(sd / posterior.unit)
    )
    if q == 2:
        x[p + q] = np.arctanh(sign[0] * sign[1] * g[0, 1] / (sd[0] * sd[1]))
    x[-1] = np.log(sigma)
    return x


def log_jacobian(posterior, x):
    """Return log |d(sd, corr, sigma) / dx|."""
    p, q = len(posterior.offset), len(posterior.unit)
    scale = x[p : p + q]
    total = float(np.sum(np.log(posterior.unit) + np.where(posterior.signed, 0.0, scale)))
    total += float(np.sum(np.log1p(-(np.tanh(x[p + q : -1]) ** 2))))
    return total + x[-1]


def log_measure(model, g, name):
    """Return log |d(sd, corr) / d(PyMC's own variables)|: LKJCholeskyCov is a density of the
    Cholesky factor of G, (L11, L21, L22), for q = 2."""
    if len(g) == 1 or "chol" not in model.named_vars:
        return 0.0
    # sd1 = L11, sd2^2 = L21^2 + L22^2, corr = L21 / sd2: the determinant is L22 / sd2^2.
    root = np.linalg.cholesky(g)
    return float(np.log(root[1, 1] / g[1, 1]))


def test_dimensions_are_named(functions):
    rows = simulate_rows(1, "x")
    conditional = functions(rows, "conditional", None, "model")
    assert conditional.named_vars_to_dims["u"] == ("g", "coefficient")
    assert conditional.coords["coefficient"] == ("Intercept", "x")
    assert conditional.coords["fixed"] == ("Intercept", "x", "w")
    assert conditional.named_vars_to_dims["beta"] == ("fixed",)


def test_unknown_form_is_refused(hsb):
    with pytest.raises(ArgumentError, match="form='centered' is not known"):
        Model("mathach ~ 1 + (1 | school)", hsb).pymc(form="centered")
