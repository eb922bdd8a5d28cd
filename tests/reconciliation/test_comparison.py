"""Reconciliation: identities that hold, gaps that add up, sabotage that is seen."""

import json

import numpy as np
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from simulate import simulate_table

from bhlm.bayes.density import log_density
from bhlm.bayes.priors.families import Normal, StudentT
from bhlm.bayes.priors.resolve import Priors
from bhlm.bayes.sampling import sample_moments
from bhlm.errors import ArgumentError
from bhlm.files import write_json
from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.reconciliation.flat_mode import find_flat_mode
from bhlm.reconciliation.split import BOUNDARY_IDENTITY
from bhlm.sources.gallery import find_model, list_models

QUICK = {"hsb_anova", "hsb_means_as_outcomes", "hsb_random_coefficient", "dyestuff2", "rail"}
MODELS = [
    pytest.param(entry.name, marks=[] if entry.name in QUICK else pytest.mark.slow)
    for entry in list_models()
]


@pytest.fixture(scope="module", params=MODELS)
def both(request, reconcile_gallery):
    return reconcile_gallery(request.param)


def test_flat_mode_is_reml(both):
    """The mode of the sampler's flat-prior density is the REML estimate, at 1e-5 relative.

    On the boundary the mode is approached and not attained, so that it stops some way off.
    """
    table = both.table
    limit = BOUNDARY_IDENTITY * table["sd"] if both.reml.singular else 1e-5 * table["reml"].abs()
    assert (table["unexplained"].abs() <= limit).all()


def test_shares_add_up_to_the_gap(both):
    table = both.table
    total = table[["shape", "prior", "monte_carlo", "unexplained"]].sum(axis=1, skipna=False)
    # With half a dozen groups a variance has no certified flat-prior mean, and no split.
    unknown = total.isna()
    assert unknown.sum() <= (0 if both.reml.moments.n_groups > 10 else 2)
    assert (total - table["gap"]).abs().max() < 1e-10
    np.testing.assert_allclose(table["gap"], table["posterior"] - table["reml"], atol=1e-12)
    np.testing.assert_allclose(table["gap_sd"] * table["sd"], table["gap"], atol=1e-12)


def test_nothing_is_left_unexplained(both):
    """What is unexplained is within three Monte Carlo errors of zero, in every parameter."""
    table = both.table
    assert (table["unexplained"].abs() <= 3 * table["unexplained_se"]).all()


def test_draws_average_what_quadrature_gives(both):
    """The sampler is certified against numbers without Monte Carlo error, means and SDs."""
    if len(both.reml.moments.random) > 2:
        assert both.chosen is None
        return
    assert both.chosen.route == both.flat.route == "quadrature"
    gap = both.table["monte_carlo"].abs() / both.table["monte_carlo_se"]
    assert gap.max() < 4
    exact = both.chosen.exact
    for name in both.chosen.mean:
        draws = both.post.draws[name]
        error = float(array_stats.mcse(draws, method="sd", chain_axis=0, draw_axis=1))
        assert abs(draws.std(ddof=1) - exact.sd[name]) < 4 * error, name


def test_words_carry_the_numbers(both):
    for name, text in both.words.items():
        row = both.table.loc[name]
        assert text.startswith(f"The posterior mean of {name} is ")
        if abs(row["gap"]) >= 0.02 * row["sd"]:
            assert f"{abs(row['gap']):.2g} {'above' if row['gap'] > 0 else 'below'} REML" in text
        for share in ("shape", "prior", "monte_carlo"):
            if np.isnan(row[share]):
                assert "how much of it is shape and how much prior cannot be told" in text
            elif abs(row[share]) >= 0.02 * row["sd"] and not np.isnan(row["shape"]):
                assert f"{abs(row[share]):.2g} {'up' if row[share] > 0 else 'down'} " in text
        assert text.endswith("; nothing unexplained.")
    assert both.words[both.table["gap_sd"].abs().idxmax()] in both.summary().replace("\n", " ") or (
        both.verdict == "agree"
    )


def test_effects_are_wider_where_parameters_are_uncertain(both):
    table = both.group_effects()
    assert len(table) == both.reml.moments.n_groups * len(both.reml.moments.random)
    # The posterior adds the uncertainty of the parameters to the conditional SD.
    assert both.reml.singular or table["widening"].median() > 1.0
    assert (table["gap"].abs() < table["sd"]).all()
    np.testing.assert_array_equal(table["eb"], both.reml.group_effects()["estimate"])


def test_the_gallery_is_reconciled(both):
    assert both.verdict in ("agree", "explained")
    assert both.table["verdict"].isin(["agree", "explained"]).all()


def test_printed_values_are_reproduced(both):
    published = [check for check in both.printed if not check.reproduced]
    if find_comparable(both):
        assert published == []


def find_comparable(both):
    return "not judged" not in both.printed_note


def test_json_has_the_keys_of_the_design(both, tmp_path):
    path = tmp_path / "out.json"
    write_json(both.to_dict(), path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) >= {"model", "reml", "posterior", "reconciliation", "verdict"}
    assert set(content["model"]) >= {"formula", "n", "groups", "group_size", "dropped_rows"}
    assert set(content["reml"]) >= {
        "loglik", "converged", "singular", "estimates", "wald", "lr_test", "reliability",
    }  # fmt: skip
    for row in content["reml"]["estimates"].values():
        assert set(row) == {"estimate", "se", "lower", "upper"}
    assert set(content["posterior"]["diagnostics"]) >= {
        "ok", "max_rhat", "min_ess_bulk", "min_ess_tail", "divergences", "seconds",
    }  # fmt: skip
    for row in content["posterior"]["estimates"].values():
        assert set(row) >= {
            "mean", "median", "mode", "sd", "lower", "upper", "ess_bulk", "rhat", "mcse_mean",
        }  # fmt: skip
    for row in content["reconciliation"].values():
        assert set(row) >= {
            "published", "reml", "posterior", "gap", "gap_sd", "shape", "prior", "monte_carlo",
            "unexplained", "verdict",
        }  # fmt: skip
    assert content["verdict"] == both.verdict
    assert list(tmp_path.iterdir()) == [path]


def test_where_stata_stopped_early(hsb_both):
    both = hsb_both
    assert len(both.printed) == 41
    assert all(check.reproduced for check in both.printed)
    early = {check.name for check in both.printed if not check.exact}
    assert {"var(cwc(ses)|school)", "var(Intercept|school)"} <= early
    assert "stopped before reaching it" in both.printed_note
    assert "var(cwc(ses)|school)" in both.printed_note


class TestSabotage:
    """A wrong engine turns the verdict."""

    def fits(self, evaluate=None):
        model = Model("y ~ x + (x | g)", simulate_table(1, n_groups=40, largest=12))
        post = sample_moments(model.moments, seed=2, evaluate=evaluate)
        return model, model.reml(), BayesFit.of(post, model=model)

    def test_a_dropped_jacobian(self, monkeypatch):
        def wrong(x, density):
            value, gradient = log_density(x, density)
            gradient = gradient.copy()
            gradient[-1] -= 1.0  # the log Jacobian of sigma = exp(x)
            gradient[2] -= 1.0  # and that of the first SD
            return value - x[-1] - x[2], gradient

        monkeypatch.setattr("bhlm.reconciliation.flat_mode.log_density", wrong)
        _, reml, post = self.fits(wrong)
        both = reconcile(reml, post)
        assert both.verdict == "unexplained"
        assert both.table.loc["var(Intercept|g)", "verdict"] == "unexplained"
        assert "One of the two engines is wrong" in " ".join(both.reasons)

    def test_a_jacobian_that_only_the_sampler_lacks(self):
        """The mode is right then, and the draws are not what quadrature gives."""

        def wrong(x, density):
            value, gradient = log_density(x, density)
            gradient = gradient.copy()
            gradient[-1] -= 20.0
            return value - 20.0 * x[-1], gradient

        _, reml, post = self.fits(wrong)
        both = reconcile(reml, post)
        assert both.verdict == "unexplained"
        assert both.table.loc["var(Residual)", "verdict"] == "unexplained"
        assert "the draws should average what quadrature gives" in " ".join(both.reasons)
        assert "unexplained" in both.words["var(Residual)"]

    def test_reml_stopped_early(self):
        from bhlm.reml.estimate import unwhiten
        from bhlm.reml.optimize import Optimum, Problem

        model, reml, post = self.fits()
        problem = Problem(reml.white, reml.structure, True)
        theta = reml.theta * 1.05
        early = Optimum(
            theta, problem.factor(theta), problem.at(theta), np.zeros(3), True, False, ()
        )
        stopped = unwhiten(model.moments, reml.structure, reml.white, early)
        assert reconcile(stopped, post).verdict == "unexplained"

    def test_a_swapped_column(self):
        from dataclasses import replace

        _, reml, post = self.fits()
        swapped = replace(reml, g=reml.g[::-1, ::-1])
        assert reconcile(swapped, post).verdict == "unexplained"

    def test_a_failed_sampler_blocks_the_verdict(self):
        model, reml, _ = self.fits()
        both = reconcile(reml, model.sample(seed=3, draws=60, tune=10))
        assert both.verdict == "not_converged"
        assert any(reason.startswith("Posterior:") for reason in both.reasons)


def test_a_strong_prior_is_named(hsb):
    model = Model("mathach ~ 1 + (1 | school)", hsb)
    post = model.sample(seed=4, priors=Priors(fixed={"Intercept": Normal(20, 0.2)}))
    row = reconcile(model.reml(), post).table.loc["Intercept"]
    assert row["verdict"] == "explained"
    assert row["prior"] == pytest.approx(row["gap"], rel=0.01)
    assert row["gap_sd"] > 10


def test_too_few_groups_for_a_flat_prior():
    table = simulate_table(6, n_groups=4, largest=20)
    model = Model("y ~ x + (x | g)", table)
    both = reconcile(model.reml(), model.sample(seed=7, target_accept=0.99))
    assert both.flat is None
    assert both.table["shape"].isna().all()
    assert "cannot be told" in both.words["sd(x|g)"]
    assert any("improper" in reason for reason in both.reasons)


def test_three_coefficients_are_reconciled_by_two_runs():
    """Quadrature serves up to two; with three the means are those of draws."""
    model = Model("y ~ x + t + (x + t | g)", simulate_table(3, n_groups=40, largest=15))
    both = reconcile(model.reml(), model.sample(seed=1))
    assert both.chosen is None
    assert both.flat.route == "draws"
    assert both.flat.fit.converged
    assert (both.table["monte_carlo"] == 0).all()
    total = both.table[["shape", "prior", "monte_carlo", "unexplained"]].sum(axis=1)
    assert (total - both.table["gap"]).abs().max() < 1e-10
    assert both.verdict in ("agree", "explained")
    assert "Monte Carlo noise (+-MC) stays in shape and prior" in both.summary().replace("\n", " ")


def test_student_priors_of_fixed_effects_are_reconciled_by_draws(hsb):
    model = Model("mathach ~ 1 + (1 | school)", hsb)
    post = model.sample(seed=6, priors=Priors(fixed=StudentT(4, 12, 10)))
    both = reconcile(model.reml(), post)
    assert both.chosen is None
    assert both.flat.route == "quadrature"
    assert both.verdict in ("agree", "explained")


def test_heavy_tails_are_not_given_a_mean():
    """Six groups under flat priors: the variance's mean is not certified, and is left out."""
    model = Model("y ~ 1 + (1 | g)", simulate_table(9, n_groups=6, largest=10))
    both = reconcile(model.reml(), model.sample(seed=7, target_accept=0.99))
    assert np.isnan(both.table.loc["var(Intercept|g)", "shape"])
    assert any("too heavy for its mean or SD" in reason for reason in both.reasons)


def test_fits_of_different_models_are_refused(hsb):
    one = Model("mathach ~ 1 + (1 | school)", hsb)
    two = Model("mathach ~ ses + (1 | school)", hsb)
    post = one.sample(seed=5, draws=50, tune=50)
    with pytest.raises(ArgumentError, match="the fits differ in model or data"):
        reconcile(two.reml(), post)
    with pytest.raises(ArgumentError, match="method='ml' cannot be reconciled"):
        reconcile(one.reml(method="ml"), post)


def test_flat_mode_needs_no_good_start(hsb):
    from bhlm.bayes.density import build_density
    from bhlm.bayes.priors.resolve import resolve_priors
    from bhlm.bayes.sampling import initial_position
    from bhlm.likelihood.covariance import arrange
    from bhlm.likelihood.whitening import whiten

    model = Model(find_model("hsb_random_coefficient").formula, hsb)
    white = whiten(model.moments, arrange(model.moments))
    posterior = build_density(
        white, resolve_priors(Priors.flat(), model.moments), arrange(model.moments)
    )
    for seed in range(3):
        mode = find_flat_mode(
            posterior, white, arrange(model.moments), initial_position(posterior, seed)
        )
        np.testing.assert_allclose(mode.g, model.reml().g, rtol=1e-5)


def test_the_mode_is_found_at_a_correlation_of_one():
    """Where the slope's SD vanishes there is a mode too, a unit of log-likelihood lower."""
    rng = np.random.default_rng(5)
    group, x = np.repeat(range(16), 20), rng.normal(size=320)
    y = np.repeat(rng.normal(size=16), 20) + 0.5 * x + rng.normal(size=320)
    model = Model("y ~ x + (x | g)", pd.DataFrame({"g": group, "x": x, "y": y}))
    reml = model.reml()
    assert reml.estimates.loc["corr(Intercept,x|g)", "estimate"] == pytest.approx(1.0)
    both = reconcile(reml, model.sample(seed=2))
    assert both.verdict == "explained"
    assert (both.table["unexplained"] / both.table["sd"]).abs().max() < BOUNDARY_IDENTITY
