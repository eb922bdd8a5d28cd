"""Simulated data have the stated law, replicates hold what the public fits give, measures hold."""

import json
import statistics
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bhlm.bayes.draws import Settings
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import Flat, HalfNormal
from bhlm.bayes.priors.resolve import Priors
from bhlm.bayes.sampling import sample_moments
from bhlm.errors import ArgumentError, IdentifiabilityError, PriorError
from bhlm.fits.model import Model
from bhlm.moments.moments import reduce_table
from bhlm.reml.estimate import fit_moments
from bhlm.studies.simulation.conditions import Condition, reduce_rows, simulate_rows, true_values
from bhlm.studies.simulation.replicate import check_study, run_replicate
from bhlm.studies.simulation.run import run_study
from bhlm.studies.simulation.study import Study, parse_study
from bhlm.studies.simulation.summary import measure

pytestmark = pytest.mark.wide

SIGMAS = 5.0  # of Monte Carlo error; the seeds are fixed
ROUNDING = 1e-10  # relative, of sums in another order


def plan(*, random=("Intercept", "x"), fixed=None, grid=None, **more) -> Study:
    fixed = {"Intercept": 1.0, "x": 0.5, "w": 0.0} if fixed is None else fixed
    grid = {
        "groups": [6, 9], "group_size": [[3, 6]], "icc": 0.3, "slope_variance": 0.2,
        "correlation": 0.4,
    } | (grid or {})  # fmt: skip
    model = {"fixed": fixed, "random": list(random), "correlated": more.pop("correlated", True)}
    content = {"seed": 3, "replicates": 4, "model": model, "grid": grid}
    content |= {"bayes": {"draws": 60, "tune": 60}, "reml": {"variances": ["wald"]}}
    return parse_study(content | more)


TWO_SETS = {"default": {}, "half": {"sd": "HalfNormal(1)", "sigma": "HalfNormal(2)"}}


class TestData:
    @pytest.mark.parametrize(
        "model",
        [
            {},
            {"random": ("Intercept",)},
            {"correlated": False},
            {"fixed": {"Intercept": 1.0}},
            {"fixed": {"Intercept": 1.0, "x": 0.2, "w": 0.3, "x:w": -0.4}},
            {"fixed": {"x:w": -0.4, "w": 0.3, "Intercept": 1.0}},
            {"fixed": {"Intercept": 1.0}, "random": ("Intercept",)},
        ],
    )
    def test_moments_are_those_of_the_formula(self, model):
        study = plan(**model)
        rows = simulate_rows(study.truth, study.conditions[1], np.random.default_rng(1))
        wanted = reduce_table(study.truth.formula, pd.DataFrame(rows))
        found = reduce_rows(study.truth, rows)
        for name in ("groups", "n"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        for name in ("fixed", "random", "blocks", "group", "formula", "dropped", "response"):
            assert getattr(found, name) == getattr(wanted, name)
        assert found.columns == wanted.columns
        np.testing.assert_allclose(found.mean, wanted.mean, rtol=ROUNDING, atol=ROUNDING)
        np.testing.assert_allclose(found.cross, wanted.cross, rtol=ROUNDING, atol=ROUNDING)

    @pytest.mark.parametrize("correlated", [True, False])
    def test_many_groups_give_the_true_values(self, correlated):
        """Estimates of 20,000 groups lie within their standard errors of what was stated."""
        study = plan(
            fixed={"Intercept": 1.0, "x": 0.5, "w": -0.2, "x:w": 0.3}, correlated=correlated
        )
        truth = replace(study.truth, residual_variance=2.0)
        condition = Condition(20_000, (3, 6), 0.3, 0.5, 0.4 if correlated else 0.0)
        rows = simulate_rows(truth, condition, np.random.default_rng(7))
        table = fit_moments(reduce_rows(truth, rows)).estimates
        true = true_values(truth, condition)
        assert list(true) == list(table.index)
        assert true["var(Intercept|group)"] == pytest.approx(2.0 * 0.3 / 0.7)
        assert true["var(x|group)"] == pytest.approx(0.5)
        distance = (table["estimate"] - pd.Series(true)) / table["se"]
        assert distance.abs().max() < SIGMAS
        assert (table["se"] < 0.05).all()  # the test could not fail otherwise

    def test_sizes_are_repeated_over_the_groups(self):
        study = plan()
        rows = simulate_rows(
            study.truth, Condition(5, (2, 7), 0.1, 0.0, 0.0), np.random.default_rng(1)
        )
        assert np.bincount(rows["group"]).tolist() == [2, 7, 2, 7, 2]
        per_group = pd.DataFrame(rows).groupby("group")["w"].nunique()
        assert (per_group == 1).all()

    def test_a_correlation_with_nothing_is_none(self):
        study = plan()
        true = true_values(study.truth, Condition(5, (3,), 0.0, 0.2, 0.0))
        assert np.isnan(true["corr(Intercept,x|group)"])
        assert true["cov(Intercept,x|group)"] == 0.0


class TestReplicate:
    def test_numbers_are_those_of_the_public_fits(self):
        study = plan(priors=TWO_SETS, reml={})
        record = run_replicate(study, 5)  # the third data set of the second condition
        rng = np.random.default_rng(np.random.SeedSequence([3, 1, 2]))
        rows = simulate_rows(study.truth, study.conditions[1], rng)
        model = Model(study.truth.formula, pd.DataFrame(rows))
        fit = model.reml()
        bounds = ["estimate", "lower", "upper"]
        # Moments that were summed in another order end the optimiser a little elsewhere.
        near = {"rtol": 1e-5, "atol": 1e-6}
        found = record["fits"]["reml"]
        for method in study.df_methods:
            wanted = fit.fixed_effects(method=method)[bounds].to_numpy()
            np.testing.assert_allclose(found["fixed"][method], wanted, **near)
        wanted = fit.estimates[bounds].to_numpy()[3:]
        wald = np.array(found["variances"]["wald"], dtype=float)
        np.testing.assert_allclose(wald, wanted, **near)
        names = list(fit.estimates.index[3:])
        profile = pd.DataFrame(found["variances"]["profile"], names, bounds, dtype=float)
        assert set(names) - set(profile.dropna().index) == {
            "cov(Intercept,x|group)", "corr(Intercept,x|group)"
        }  # fmt: skip
        wanted = fit.profile().loc[profile.dropna().index, bounds]
        np.testing.assert_allclose(profile.dropna(), wanted, rtol=1e-4, atol=1e-5)
        assert found["converged"] is True
        moments = reduce_rows(study.truth, rows)
        for name, priors in study.priors:
            seed = int(rng.integers(2**31))
            post = sample_moments(
                moments, seed=seed, settings=Settings(draws=60, tune=60, chains=2), priors=priors
            )
            wanted = post.estimates[["mean", "median", "mode", "lower", "upper"]].to_numpy()
            found = record["fits"][f"bayes {name}"]
            np.testing.assert_allclose(found["all"], wanted, rtol=ROUNDING)
            assert found["rhat"] == pytest.approx(post.diagnostics.max_rhat)
            assert found["ess_bulk"] == pytest.approx(post.diagnostics.min_ess_bulk)
            assert found["ess_tail"] == pytest.approx(post.diagnostics.min_ess_tail)
            assert found["divergences"] == post.diagnostics.divergences
        assert json.loads(json.dumps(record, allow_nan=False)) == record

    def test_replicates_and_conditions_differ(self):
        study = plan(grid={"groups": 6, "icc": [0.3, 0.3000001]}, priors={})
        records = [run_replicate(study, number) for number in range(4)]
        slopes = [record["fits"]["reml"]["fixed"]["z"][1][0] for record in records]
        assert len(set(np.round(slopes, 3))) == 4

    def test_an_error_is_recorded(self, monkeypatch):
        def fail(*_, **__):
            raise np.linalg.LinAlgError("singular")

        study = plan(priors={"default": {}})
        monkeypatch.setattr("bhlm.studies.simulation.replicate.fit_moments", fail)
        monkeypatch.setattr("bhlm.studies.simulation.replicate.sample_density", fail)
        wanted = {"error": "LinAlgError: singular"}
        record = run_replicate(study, 0)
        assert record["fits"] == {"reml": wanted, "bayes default": wanted}

    def test_an_error_of_the_program_is_raised(self, monkeypatch):
        monkeypatch.setattr("bhlm.studies.simulation.replicate.fit_moments", None)
        with pytest.raises(TypeError):
            run_replicate(plan(), 0)


class TestRefusals:
    def test_a_condition_that_cannot_identify_the_model(self):
        with pytest.raises(
            IdentifiabilityError, match=r"condition J = 9, n = 1, .*: 'x' never varies"
        ):
            check_study(plan(grid={"groups": 9, "group_size": [4, 1]}))

    def test_a_flat_prior_that_the_groups_bound(self):
        check_study(plan(grid={"groups": 8}, priors={"flat": {"sd": "Flat"}}))

    def test_a_flat_prior_that_the_groups_do_not_bound(self):
        """With J groups and r flat effects between them the integrand falls as sd^-(J - r)."""

        def check(groups, **priors):
            grid = {"groups": groups, "slope_variance": 0.0, "correlation": 0.0}
            check_study(plan(random=["Intercept"], grid=grid, priors={"flat": priors}))

        with pytest.raises(ArgumentError, match="give no posterior in condition J = 3") as caught:
            check(3, sd="Flat", fixed="Flat")
        assert "sd(Intercept|group)" in str(caught.value)
        check(4, sd="Flat", fixed="Flat")
        check(3, sd="Flat")  # the effect of w has a prior
        check(3, sd="HalfNormal(1)", fixed="Flat")

    def test_a_prior_for_another_parameter(self):
        with pytest.raises(PriorError, match="priors 'a': sd prior for 'w'"):
            check_study(plan(priors={"a": {"sd": {"w": "HalfNormal(1)"}}}))
        with pytest.raises(PriorError, match=r"priors 'a': sd=LKJ"):
            check_study(plan(priors={"a": {"sd": "LKJ(1)"}}))


def lines_of(values, true):
    """The measures of `summary`, one replicate at a time."""
    estimates = [row[0] for row in values]
    R = len(estimates)
    mean = sum(estimates) / R
    variance = sum((e - mean) ** 2 for e in estimates) / (R - 1)
    squares = [(e - true) ** 2 for e in estimates]
    mse = sum(squares) / R
    mse_error = (sum((s - mse) ** 2 for s in squares) / (R * (R - 1))) ** 0.5
    covered = sum(low <= true <= high for _, low, high in values) / R
    power = sum(low > 0 or high < 0 for _, low, high in values) / R
    return {
        "mean": mean,
        "bias": mean - true,
        "bias_mcse": (variance / R) ** 0.5,
        "relative_bias": (mean - true) / true,
        "emp_se": variance**0.5,
        "emp_se_mcse": (variance / (2 * (R - 1))) ** 0.5,
        "rmse": mse**0.5,
        "rmse_mcse": mse_error / (2 * mse**0.5),
        "coverage": covered,
        "coverage_mcse": (covered * (1 - covered) / R) ** 0.5,
        "reject": power,
        "reject_mcse": (power * (1 - power) / R) ** 0.5,
        "width": sum(high - low for _, low, high in values) / R,
        "width_median": statistics.median(high - low for _, low, high in values),
    }


class TestMeasures:
    def test_they_are_the_formulas(self):
        rng = np.random.default_rng(1)
        estimates = rng.normal(0.5, 1.0, 40)
        values = np.column_stack([estimates, estimates - 1.0, estimates + rng.uniform(1, 3, 40)])
        found = measure(0.3, values, tested=True)
        for name, value in lines_of(values.tolist(), 0.3).items():
            assert found[name] == pytest.approx(value, rel=ROUNDING), name
        assert (found["replicates"], found["used"], found["intervals"]) == (40, 40, 40)

    def test_monte_carlo_errors_are_what_studies_vary_by(self):
        rng = np.random.default_rng(2)
        studies = []
        for _ in range(2000):
            estimates = 0.5 + rng.standard_normal(50)
            half = rng.uniform(1.0, 2.0, 50)
            values = np.column_stack([estimates, estimates - half, estimates + half])
            studies.append(measure(0.2, values, tested=True))
        table = pd.DataFrame(studies)
        for name in ("bias", "emp_se", "rmse", "coverage", "width", "reject"):
            # An SD of 2000 studies has an error of 1.6 %, and each mcse is itself estimated.
            assert table[f"{name}_mcse"].mean() == pytest.approx(table[name].std(), rel=0.08), name

    def test_what_is_missing_is_counted(self):
        values = np.array([[1.0, 0.5, 1.5], [2.0, np.nan, np.nan], [np.nan] * 3, [3.0, 2.0, 9.0]])
        found = measure(1.0, values, tested=True)
        assert (found["replicates"], found["used"], found["intervals"]) == (4, 3, 2)
        assert found["mean"] == 2.0
        assert found["coverage"] == 0.5
        assert found["reject"] == 1.0
        assert found["width"] == 4.0

    def test_what_does_not_exist_is_nan(self):
        values = np.array([[1.0, 0.5, 1.5], [2.0, 1.0, 3.0]])
        none = measure(np.nan, values, tested=False)
        for name in ("bias", "bias_mcse", "rmse", "coverage", "reject", "relative_bias"):
            assert np.isnan(none[name]), name
        assert none["mean"] == 1.5
        assert np.isnan(measure(0.0, values, tested=True)["relative_bias"])
        empty = measure(1.0, np.full((3, 3), np.nan), tested=True)
        assert np.isnan(empty["coverage"])
        assert empty["used"] == 0
        assert np.isnan(measure(1.0, values[:1], tested=True)["bias_mcse"])


class TestResults:
    @pytest.mark.slow
    def test_coverage_is_what_theory_says(self):
        """In a balanced design, the t of a group's covariate has J - 2 = 3 df, exactly."""
        study = plan(
            random=("Intercept",), fixed={"Intercept": 0.0, "w": 0.0},
            grid={"groups": 5, "group_size": 10, "icc": 0.8, "slope_variance": 0.0},
        )  # fmt: skip
        table = run_study(replace(study, replicates=600), file=None, processes=1).table
        rows = table[table["parameter"] == "w"].set_index("estimator")
        wanted = {
            "reml z": 1.0 - 2.0 * stats.t.sf(stats.norm.ppf(0.975), 3),
            "reml satterthwaite": 0.95,
            "reml kenward-roger": 0.95,
        }
        for name, share in wanted.items():
            error = np.sqrt(share * (1.0 - share) / 600)
            assert abs(rows.loc[name, "coverage"] - share) < 4.0 * error, name
            assert rows.loc[name, "reject"] == pytest.approx(1.0 - rows.loc[name, "coverage"])
        assert abs(rows.loc["reml z", "bias"]) < 4.0 * rows.loc["reml z", "bias_mcse"]
        variance = table[table["parameter"] == "var(Intercept|group)"].iloc[0]
        assert abs(variance["bias"]) < 4.0 * variance["bias_mcse"]

    def test_the_table_has_a_row_for_everything(self):
        study = plan(priors=TWO_SETS)
        found = run_study(study, file=None, processes=1)
        table = found.table
        assert len(table) == 2 * (3 * 3 + 8 + 2 * 3 * 11)
        assert not table.duplicated(["condition", "estimator", "point", "parameter"]).any()
        assert (table["replicates"] == 4).all()
        assert table.loc[table["parameter"] == "var(x|group)", "true"].unique().tolist() == [0.2]
        assert set(table["J"]) == {6, 9}
        raw = found.estimates
        assert len(raw) == 4 * len(table)
        keys = ["condition", "estimator", "point", "parameter"]
        means = raw.groupby(keys)["estimate"].mean()
        np.testing.assert_allclose(means[pd.MultiIndex.from_frame(table[keys])], table["mean"])

    def test_failures_are_counted_and_said(self, monkeypatch):
        study = plan(grid={"groups": 6}, priors={"default": {}})
        found = run_study(study, file=None, processes=1)
        records = [dict(record) for record in found.records]
        records[0]["fits"] = {
            "reml": {"error": "LinAlgError: no luck"}, "bayes default": {"error": "RuntimeError: x"}
        }  # fmt: skip
        fits = records[1]["fits"]
        records[1]["fits"] = {
            "reml": fits["reml"] | {"converged": False, "singular": True},
            "bayes default": fits["bayes default"] | {"rhat": 1.2, "divergences": 3},
        }
        for record, rhat, ess in zip(records[2:], (None, 1.0), (900.0, 199.0), strict=True):
            better = {"rhat": rhat, "ess_bulk": 900.0, "ess_tail": ess, "divergences": 0}
            fits = record["fits"]
            record["fits"] = {
                "reml": fits["reml"] | {"singular": False},
                "bayes default": fits["bayes default"] | better,
            }
        spoiled = replace(found, records=tuple(records))
        reml, bayes = spoiled.fits.to_dict("records")
        assert (reml["errors"], reml["not_converged"], reml["singular"]) == (1, 1, 1)
        assert (bayes["errors"], bayes["not_converged"], bayes["divergent"]) == (1, 3, 1)
        table = spoiled.table.set_index(["estimator", "point", "parameter"])
        row = table.loc[("reml z", "estimate", "x")]
        assert (row["replicates"], row["used"], row["failures"]) == (4, 3, 2)
        row = table.loc[("bayes default", "mean", "x")]
        assert (row["replicates"], row["used"], row["failures"]) == (4, 3, 4)
        text = spoiled.summary()
        assert "reml: 4 fits, 1 errors, 1 not converged, 1 singular" in text
        assert "bayes default: 4 fits, 1 errors, 3 not converged, 1 with divergent" in text
        assert "the first error: LinAlgError: no luck" in text
        assert " of 3" in text

    def test_text_and_json(self):
        study = plan(priors={"half": {"sd": "HalfNormal(1)"}})
        found = run_study(study, file=None, processes=1)
        text = found.summary()
        assert "J = 9, n = 3/6, ICC = 0.3, slope variance = 0.2, correlation = 0.4" in text
        assert "priors half: sd HalfNormal(1); defaults for the rest" in text
        assert "y ~ x + w + (x | group), 8 data sets, 4 in each of 2 conditions; seed 3" in text
        assert max(map(len, text.splitlines())) <= 105
        content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert len(content["results"]) == len(found.table)
        assert content["results"][0]["parameter"] == "Intercept"
        assert content["fits"][1]["fit"] == "bayes half"
        assert content["identity"]["seed"] == 3

    def test_a_zero_that_no_interval_can_hold_is_said(self):
        zero = plan(grid={"groups": 6, "slope_variance": 0.0})
        text = " ".join(run_study(zero, file=None, processes=1).summary().split())
        assert "variance that is truly 0" in text
        assert "truly 0" not in run_study(plan(), file=None, processes=1).summary()

    @pytest.mark.slow
    def test_variances_that_are_estimated_as_zero_have_profile_intervals(self):
        zero = plan(grid={"groups": 6, "icc": 0.0, "slope_variance": 0.0}, reml={"df": []})
        found = run_study(zero, file=None, processes=1)
        assert found.fits["singular"].iloc[0] > 0
        table = found.table.set_index(["estimator", "parameter"])
        wald, profile = (table.loc[(name, "var(x|group)")] for name in ("reml", "reml profile"))
        assert wald["intervals"] < wald["replicates"] == profile["intervals"]
        assert wald["coverage"] == 0.0 or wald["intervals"] == 0
        assert profile["coverage"] > 0.0
        raw = found.estimates.set_index(["estimator", "parameter"]).loc[("reml profile",)]
        assert (raw["lower"] >= 0.0).all()
        assert np.isfinite(raw[["lower", "upper"]]).all(axis=None)

    @pytest.mark.slow
    def test_no_df_methods_and_no_priors_leave_the_variances(self):
        table = run_study(plan(reml={"df": []}), file=None, processes=1).table
        assert set(table["estimator"]) == {"reml", "reml profile"}
        assert "x" not in set(table["parameter"])

    def test_priors_given_in_python(self):
        priors = Priors(sd=HalfNormal(1.0), corr=LKJ(1.0), sigma=Flat())
        study = replace(plan(), priors=(("mine", priors),), replicates=2)
        found = run_study(study, file=None, processes=1)
        assert "bayes mine" in set(found.table["estimator"])
