"""Reconciliation: identities that hold, gaps that add up, sabotage that is seen."""

import json

import numpy as np
import pytest
from simulate import simulate_table

from bhlm.errors import ArgumentError, DataError
from bhlm.export import clean, write_json
from bhlm.flat_mode import find_flat_mode
from bhlm.gallery import find_model, load_data
from bhlm.model import Model
from bhlm.priors import Normal, Priors
from bhlm.reconcile import reconcile

MODELS = ["hsb_anova", "hsb_means_as_outcomes", "hsb_random_coefficient",
          "hsb_intercepts_and_slopes"]  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def both(request):
    entry = find_model(request.param)
    model = Model(entry.formula, load_data(entry))
    return reconcile(model.reml(), model.sample(seed=1), published=entry.published)


def test_flat_mode_is_reml(both):
    """The mode of the sampler's flat-prior density is the REML estimate, at 1e-5 relative."""
    difference = both.table["unexplained"] / both.table["reml"]
    assert difference.abs().max() < 1e-5


def test_shares_add_up_to_the_gap(both):
    table = both.table
    total = table["shape"] + table["prior"] + table["unexplained"]
    assert (total - table["gap"]).abs().max() < 1e-10
    np.testing.assert_allclose(table["gap"], table["posterior"] - table["reml"], atol=1e-12)
    np.testing.assert_allclose(table["gap_sd"] * table["sd"], table["gap"], atol=1e-12)


def test_the_gallery_is_reconciled(both):
    assert both.verdict in ("agree", "explained")
    assert both.flat.converged
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


def test_where_stata_stopped_early(hsb):
    entry = find_model("hsb_random_coefficient")
    model = Model(entry.formula, hsb)
    both = reconcile(model.reml(), model.sample(seed=1), published=entry.published)
    assert len(both.printed) == 41
    assert all(check.reproduced for check in both.printed)
    early = {check.name for check in both.printed if not check.exact}
    assert {"var(cwc(ses)|school)", "var(Intercept|school)"} <= early
    assert "stopped before reaching it" in both.printed_note
    assert "var(cwc(ses)|school)" in both.printed_note


class TestSabotage:
    """A wrong engine turns the verdict."""

    def fits(self):
        model = Model("y ~ x + (x | g)", simulate_table(1, n_groups=40, largest=12))
        return model, model.reml(), model.sample(seed=2)

    def test_a_dropped_jacobian(self, monkeypatch):
        import bhlm.flat_mode
        import bhlm.sampling
        from bhlm.density import log_density

        def wrong(x, *arguments):
            value, gradient = log_density(x, *arguments)
            gradient = gradient.copy()
            gradient[-1] -= 1.0  # the log Jacobian of sigma = exp(x)
            gradient[2] -= 1.0  # and that of the first SD
            return value - x[-1] - x[2], gradient

        monkeypatch.setattr(bhlm.sampling, "log_density", wrong)
        monkeypatch.setattr(bhlm.flat_mode, "log_density", wrong)
        _, reml, post = self.fits()
        both = reconcile(reml, post)
        assert both.verdict == "unexplained"
        assert both.table.loc["var(Intercept|g)", "verdict"] == "unexplained"
        assert "one of the two engines is wrong" in " ".join(both.reasons)

    def test_reml_stopped_early(self):
        from bhlm.optimize import Optimum, Problem
        from bhlm.reml import unwhiten

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
    assert any("improper" in reason for reason in both.reasons)


def test_fits_of_different_models_are_refused(hsb):
    one = Model("mathach ~ 1 + (1 | school)", hsb)
    two = Model("mathach ~ ses + (1 | school)", hsb)
    post = one.sample(seed=5, draws=50, tune=50)
    with pytest.raises(ArgumentError, match="the fits differ in model or data"):
        reconcile(two.reml(), post)
    with pytest.raises(ArgumentError, match="method='ml' cannot be reconciled"):
        reconcile(one.reml(method="ml"), post)


def test_flat_mode_needs_no_good_start(hsb):
    from bhlm.covariance import combine
    from bhlm.density import build_posterior
    from bhlm.priors import resolve_priors
    from bhlm.sampling import initial_position
    from bhlm.whitening import whiten

    model = Model(find_model("hsb_random_coefficient").formula, hsb)
    white = whiten(model.moments, combine(model.moments.blocks))
    posterior = build_posterior(white, resolve_priors(Priors.flat(), model.moments), (2,))
    for seed in range(3):
        mode = find_flat_mode(posterior, white, initial_position(posterior, seed))
        np.testing.assert_allclose(mode.g, model.reml().g, rtol=1e-5)


class TestExport:
    def test_clean_makes_numbers_that_json_can_hold(self):
        value = {"a": np.float64(1.5), "b": [np.nan, np.inf, np.int64(3)], "c": np.bool_(True)}
        assert clean(value) == {"a": 1.5, "b": [None, None, 3], "c": True}

    def test_missing_folder_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="choose a folder that exists"):
            write_json({}, tmp_path / "no" / "out.json")

    def test_a_failing_write_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "out.json"
        write_json({"old": 1}, path)
        with pytest.raises(TypeError):
            write_json({"new": object()}, path)
        assert json.loads(path.read_text()) == {"old": 1}
        assert list(tmp_path.iterdir()) == [path]
