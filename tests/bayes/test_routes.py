"""One posterior by every route: the compiled density, the pm.Model in both forms, custom priors."""

import arviz as az
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from scipy import stats
from simulate import simulate_rows, simulate_table

from bhlm.bayes.density import build_density, evaluate_priors, log_density
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import (
    Cauchy,
    Exponential,
    Flat,
    Gamma,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    Normal,
    StudentT,
)
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.errors import ArgumentError, PriorError
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.whitening import whiten

# Two orders of the same sums in doubles, at 1000 points.
RELATIVE = 1e-9
# Independent Monte Carlo errors between two means: four leave one false alarm in 16,000.
ERRORS = 4.0
# PyTensor's compiled log-gamma is good to eight digits.
LGAMMA = 1e-8

SETS = {
    "normal, half-t": Priors(Normal(0, 3), HalfStudentT(3, 2), LKJ(2.0), HalfStudentT(4, 3)),
    "flat": Priors.flat(),
    "t, half-normal": Priors(StudentT(4, 1, 2), HalfNormal(2), LKJ(5.0), HalfNormal(3)),
    "Cauchy, half-Cauchy": Priors(Cauchy(0, 3), HalfCauchy(1.5), LKJ(1.0), HalfCauchy(2)),
    "flat, gamma": Priors(Flat(), Gamma(2, 0.5), LKJ(0.7), Gamma(3, 1)),
    "normal, exponential": Priors(Normal(1, 4), Exponential(0.4), LKJ(1.5), Exponential(0.3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_density_and_gradient_are_pymcs_at_1000_points(name):
    """With x(v) the sampler's position at PyMC's unconstrained v, up to a constant

    log p(v) = log p(x(v)) + log |det dx/dv|, and the gradients follow by the chain rule.
    """
    moments = simulate_rows(4, "x").model.moments
    white = whiten(moments, arrange(moments))
    posterior = build_density(white, resolve_priors(SETS[name], moments), arrange(moments))
    model = Model(moments.formula, moments).pymc(priors=SETS[name])
    logp, dlogp = model.compile_logp(), model.compile_dlogp()
    locate = compile_position(model, white, posterior)
    start = model.initial_point()
    rng = np.random.default_rng(5)
    gaps, sizes, errors = [], [], []
    for _ in range(1000):
        point = {
            key: np.asarray(value + 0.7 * rng.normal(size=np.shape(value)))
            for key, value in start.items()
        }
        x, jacobian, logdet, dlogdet = locate(point)
        ours, gradient = log_density(x, posterior)
        theirs, their_gradient = float(logp(point)), dlogp(point)
        gaps.append(theirs - ours - logdet)
        sizes.append(abs(theirs))
        error = their_gradient - jacobian.T @ gradient - dlogdet
        errors.append(np.abs(error).max() / np.abs(their_gradient).max())
    assert np.all(np.abs(gaps - np.median(gaps)) <= RELATIVE * np.array(sizes))
    assert max(errors) <= RELATIVE


def compile_position(model, white, posterior):
    """Return a function from v to x, dx/dv, log |det dx/dv| and the latter's gradient by v."""
    named = [model["beta"], model["G"], model["sigma"]]
    beta, g, sigma = model.replace_rvs_by_values(named)
    sd = pt.sqrt(pt.diagonal(g))
    signed = pt.as_tensor_variable(posterior.signed)
    x = pt.concatenate([
        pt.dot(np.linalg.inv(white.fixed), (beta - white.ols) / white.scale),
        pt.switch(signed, sd / posterior.unit, pt.log(sd / posterior.unit)),
        pt.arctanh(g[0, 1] / (sd[0] * sd[1]))[None],
        pt.log(sigma)[None],
    ])  # fmt: skip

    # PyTensor cannot vectorise LKJCorr, which stands in the model of flat priors alone.
    fast = all(type(prior.owner.op).__name__ != "LKJCorrRV" for prior in model.free_RVs)
    parts = [pt.jacobian(x, v, vectorize=fast) for v in model.value_vars]
    columns = [pt.reshape(part, (x.shape[0], -1)) for part in parts]
    jacobian = pt.concatenate(columns, axis=1)
    logdet = pt.log(pt.abs(pt.linalg.det(jacobian)))
    dlogdet = pt.concatenate(
        [
            pt.reshape(pt.grad(logdet, v, disconnected_inputs="ignore"), (-1,))
            for v in model.value_vars
        ]
    )
    function = pytensor.function(model.value_vars, [x, jacobian, logdet, dlogdet])
    return lambda point: function(**point)


def near_zero(seed):
    """Return a table whose slopes do not vary."""
    table = simulate_table(seed, n_groups=25, largest=12)
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=25)[table["g"]]
    return table.assign(y=1.0 + table["x"] + effects + rng.normal(size=len(table)))


@pytest.mark.slow
@pytest.mark.parametrize("random", ["1", "x", "x + t", "(x | g) + (0 + t | g)", "near zero"])
def test_three_routes_give_the_same_means(random):
    """Posterior means agree within Monte Carlo error."""
    if random == "near zero":
        model = Model("y ~ x + (x | g)", near_zero(6))
        assert model.sample(seed=1).estimates.loc["sd(x|g)", "lower"] < 0.05
    else:
        terms = random if random.startswith("(") else f"({random} | g)"
        model = Model(f"y ~ x + w + {terms}", simulate_table(10, n_groups=25, largest=12))
    fast = model.sample(seed=11, draws=2000)
    assert fast.converged
    assert fast.sampler == "numba density, nutpie"
    marginal = model.sample(seed=12, draws=2000, sampler="pymc")
    assert marginal.sampler == "PyMC marginal model, nutpie"
    with model.pymc(form="conditional"):
        conditional = pm.sample(
            draws=2000, tune=1500, chains=4, cores=2, random_seed=12, progressbar=False,
            target_accept=0.98,
        )  # fmt: skip
    for other in (marginal.data, conditional):
        for variable in ("beta", "sd", "corr", "sigma", "u"):
            compare_means(fast.data["posterior"][variable], other["posterior"][variable], variable)


def compare_means(ours, theirs, variable):
    error = np.hypot(az.mcse(ours), az.mcse(theirs))
    gap = abs(ours.mean(("chain", "draw")) - theirs.mean(("chain", "draw")))
    # A correlation with itself does not vary and has no error.
    error = np.nan_to_num(np.asarray(error))
    assert np.all(np.asarray(gap) <= ERRORS * error + 1e-12), variable


@pytest.mark.slow
def test_a_pymc_prior_is_sampled_like_the_family_it_is():
    model = Model("y ~ x + (x | g)", simulate_table(15, n_groups=20))
    given = Priors(sd=Gamma(2, 0.5), fixed={"x": Normal(0, 1)}, at="zero")
    ours = model.sample(seed=1, priors=given)
    priors = Priors(sd=pm.Gamma.dist(2, 0.5), fixed={"x": pm.Normal.dist(0, 1)}, at="zero")
    theirs = model.sample(seed=2, priors=priors)
    assert theirs.sampler == "PyMC marginal model, nutpie"
    assert theirs.converged
    for name, row in ours.estimates.iterrows():
        other = theirs.estimates.loc[name]
        error = np.hypot(row["mcse_mean"], other["mcse_mean"])
        assert abs(row["mean"] - other["mean"]) <= ERRORS * error, name
    assert "PyMC gamma" in theirs.summary()
    sd = theirs.data["posterior"]["sd"].values
    np.testing.assert_allclose(
        theirs.data["log_prior"]["sd"], stats.gamma(2, scale=2).logpdf(sd), rtol=LGAMMA
    )


@pytest.mark.parametrize(
    ("priors", "expected"),
    [
        (Priors(sd=pm.Normal.dist(0, 1)), "PyMC normal(0, 1) allows negative values, but "
         "sd(Intercept) is positive; use a distribution on the positive numbers"),
        (Priors(sigma=pm.Laplace.dist(0, 1)), "but sd(Residual) is positive"),
        (Priors(fixed=pm.Dirichlet.dist([1.0, 1.0])), "is a distribution of arrays with 1 dim"),
        (Priors(fixed=pm.Normal), "is not a prior; give one such as Normal(0, 1) or pm.Weibull"),
    ],
)  # fmt: skip
def test_pymc_priors_that_cannot_serve_are_refused(priors, expected):
    model = Model("y ~ x + (1 | g)", simulate_table(16))
    with pytest.raises(PriorError) as error:
        model.sample(seed=1, priors=priors)
    assert expected in str(error.value)


def test_routes_that_do_not_exist_are_refused():
    model = Model("y ~ x + (1 | g)", simulate_table(16))
    with pytest.raises(ArgumentError, match="sampler='stan' is not known; choose 'density' or"):
        model.sample(seed=1, sampler="stan")
    with pytest.raises(PriorError, match="which sampler='density' cannot read; leave sampler out"):
        model.sample(seed=1, sampler="density", priors=Priors(sigma=pm.Gamma.dist(2, 1)))


@pytest.mark.parametrize("eta", [0.7, 1.0, 3.0])
def test_prior_terms_are_scipys_and_pymcs(eta):
    rng = np.random.default_rng(6)
    draws = 4
    moments = simulate_rows(7, "x + t").model.moments
    priors = Priors(Normal(1, 2), HalfNormal(2), LKJ(eta), Exponential(0.5), at="zero")
    root = np.tril(rng.normal(size=(draws, 3, 3)))
    root *= np.sign(np.einsum("dii->di", root))[:, None, :]
    beta, sigma = rng.normal(size=(draws, 3)), np.exp(rng.normal(size=draws))
    resolved = resolve_priors(priors, moments)
    terms = evaluate_priors(resolved, arrange(moments), Parameters(beta, root, sigma))
    sd = np.linalg.norm(root, axis=2)
    np.testing.assert_allclose(terms["beta"], stats.norm(1, 2).logpdf(beta), rtol=1e-12)
    np.testing.assert_allclose(terms["sd"], stats.halfnorm(0, 2).logpdf(sd), rtol=1e-12)
    np.testing.assert_allclose(terms["sigma"], stats.expon(0, 2).logpdf(sigma), rtol=1e-12)
    factor = pt.dmatrix()
    density = pytensor.function([factor], pm.logp(pm.LKJCorr.dist(n=3, eta=eta), factor))
    chol = root / sd[:, :, None]
    # PyMC's is a density of the Cholesky factor: the Jacobian to the matrix is prod L_ii^(3 - i).
    jacobian = np.log(chol[:, 1, 1]) * 1 + np.log(chol[:, 2, 2]) * 0
    theirs = [float(density(row)) for row in chol] - jacobian
    np.testing.assert_allclose(terms["lkj"], theirs, rtol=LGAMMA)


def test_the_lkj_term_integrates_to_one():
    """For two coefficients, over the correlation."""
    r = np.linspace(-1, 1, 200_001)[1:-1]
    root = np.zeros((len(r), 2, 2))
    root[:, 0, 0], root[:, 1, 0], root[:, 1, 1] = 1.0, r, np.sqrt(1 - r**2)
    moments = simulate_rows(8, "x").model.moments
    for eta in (1.0, 2.0, 5.0):
        resolved = resolve_priors(Priors(corr=LKJ(eta), at="zero"), moments)
        beta, sigma = np.zeros((len(r), 3)), np.ones(len(r))
        terms = evaluate_priors(resolved, arrange(moments), Parameters(beta, root, sigma))
        density = np.exp(terms["lkj"])
        assert np.trapezoid(density, r) == pytest.approx(1.0, rel=1e-4)
