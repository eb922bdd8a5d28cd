"""Calibration: right samplers pass, wrong densities are caught, interrupted studies go on."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulate import dense_covariance, random_covariance, simulate_rows, simulate_table
from small_studies import FAST, VAGUE, small_model

from bhlm.bayes.density import log_density
from bhlm.bayes.draws import Settings
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import Exponential, Flat, Gamma, HalfNormal, LogNormal, Normal
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError, DataError, IdentifiabilityError, PriorError
from bhlm.fits.model import Model
from bhlm.likelihood.simulate import refit_scale, simulate_whitened
from bhlm.moments.moments import Moments
from bhlm.studies.calibration.run import (
    calibrate,
    plan_study,
    quantity_names,
    run_replicate,
)

pytestmark = pytest.mark.wide

SIGMAS = 5.0  # of Monte Carlo error; the seed is fixed
ROUNDING = 1e-9  # relative, of blocks that went through a change of columns and back
SETTINGS = Settings(draws=100, tune=100, chains=1, target_accept=0.9, maxdepth=10, prior_only=False)


def plan(moments: Moments, *, priors: Priors | None = None):
    return plan_study(
        moments, SETTINGS, priors=priors, covariance=None, seed=1, n_draws=10, thin=10
    )


def drop_log_jacobian(at: int):
    """Return a density that forgets the Jacobian of the logarithm at coordinate `at`."""

    def wrong(x, density):
        value, gradient = log_density(x, density)
        gradient = gradient.copy()
        gradient[at] -= 1.0
        return value - x[at], gradient

    return wrong


class TestSimulatedData:
    def test_whitening_anew_gives_what_whitening_gives(self):
        """Blocks about other coefficients and in another unit come back to least squares."""
        model = simulate_rows(2, "x", n_groups=9).model
        white = plan(model.moments).simulator.white
        rng = np.random.default_rng(1)
        beta, scale = white.ols + rng.normal(size=white.p), 3.7
        loadings = np.eye(white.blocks.shape[1])
        away = np.linalg.solve(white.fixed, white.ols - beta) / scale
        loadings[white.q :, -1] = np.append(away, white.scale / scale)
        moved = replace(white, blocks=loadings.T @ white.blocks @ loadings, ols=beta, scale=scale)
        again = refit_scale(moved)
        np.testing.assert_allclose(again.ols, white.ols, rtol=ROUNDING)
        assert again.scale == pytest.approx(white.scale, rel=ROUNDING)
        np.testing.assert_allclose(again.blocks, white.blocks, rtol=ROUNDING, atol=1e-10)

    @pytest.mark.parametrize(
        "random",
        [
            "x",
            *(
                pytest.param(each, marks=pytest.mark.slow)
                for each in ("1", "x + t", "(1 | g) + (0 + x | g)")
            ),
        ],
    )
    def test_least_squares_has_the_law_of_simulated_rows(self, random):
        rows = simulate_rows(5, random, n_groups=7)
        study = plan(rows.model.moments)
        rng = np.random.default_rng(2)
        q = rows.z.shape[1]
        g = random_covariance(rng, q)
        if random.startswith("("):
            g = np.diag(np.diag(g))
        beta, sigma = rng.normal(size=3) * 10.0, 0.8
        v = dense_covariance(rows, g, sigma**2)
        hat = np.linalg.solve(rows.x.T @ rows.x, rows.x.T)
        cov = hat @ v @ hat.T
        residual = np.eye(len(rows.y)) - rows.x @ hat
        draws = 4000
        ols, rss = np.empty((draws, 3)), np.empty(draws)
        root = np.linalg.cholesky(g)
        for d in range(draws):
            white = simulate_whitened(study.simulator, beta, root, sigma, rng)
            ols[d], rss[d] = white.ols, white.scale**2 * (white.n - 3)
        error = np.sqrt(np.diag(cov) / draws)
        assert np.all(np.abs(ols.mean(axis=0) - beta) < SIGMAS * error)
        products = np.einsum("da,db->dab", *[ols - beta] * 2)
        error = products.std(axis=0) / np.sqrt(draws)
        assert np.all(np.abs(np.cov(ols.T) - cov) < SIGMAS * error)
        expected = np.trace(residual @ v)
        assert abs(rss.mean() - expected) < SIGMAS * rss.std() / np.sqrt(draws)
        variance = 2.0 * np.trace(residual @ v @ residual @ v)
        assert rss.var() == pytest.approx(variance, rel=0.25)  # of a skewed sum of squares

    def test_an_offset_covariate_costs_no_digits(self):
        """The same seed on a shifted covariate simulates the same data."""
        table = simulate_table(3, n_groups=9)
        ranks = []
        for shift in (0.0, 1e6):
            moved = table.assign(x=table["x"] + shift)
            model = Model("y ~ x + (1 | g)", moved)
            study = plan(model.moments, priors=Priors(fixed=Normal(0, 1), sd=HalfNormal(1)))
            ranks.append(run_replicate(study, 0)["ranks"][1:])
        assert ranks[0] == ranks[1]


class TestVerdict:
    def test_a_right_density_passes(self):
        found = calibrate(small_model(), replicates=40, **FAST)
        assert found.ok
        assert found.quantities == (
            "Intercept", "var(Intercept|g)", "var(Residual)", "log-likelihood",
            "log posterior density",
        )  # fmt: skip
        assert found.ranks.shape == (40, 5)
        assert found.ranks.min() >= 0
        assert found.ranks.max() <= 19
        assert len(np.unique(found.ranks[:, 0])) > 10
        assert "Gamma(2, 2)" in found.summary()
        assert json.loads(json.dumps(found.to_dict()))["ok"] is True

    @pytest.mark.slow
    def test_a_dropped_jacobian_is_caught(self):
        found = calibrate(small_model(), replicates=80, evaluate=drop_log_jacobian(1), **FAST)
        assert not found.ok
        (failure,) = (text for text in found.failures if text.startswith("var(Intercept|g)"))
        assert "rank too high" in failure
        assert "the posterior is low" in failure

    @pytest.mark.slow
    def test_two_hundred_replicates_of_a_random_slope_pass(self):
        rng = np.random.default_rng(4)
        group = np.repeat(np.arange(30), 10)
        x = rng.normal(size=300)
        y = 10.0 + x + rng.normal(size=30)[group] * (1.0 + x) + rng.normal(size=300)
        model = Model("y ~ x + (x | g)", pd.DataFrame({"g": group, "x": x, "y": y}))
        found = calibrate(model, seed=5, replicates=200)
        assert found.ok, found.summary()
        assert (found.divergences > 0).mean() < 0.05

    @pytest.mark.slow
    @pytest.mark.parametrize("covariance", ["exchangeable", "identity"])
    def test_two_hundred_replicates_of_a_shared_sd_pass(self, covariance):
        model = small_model(12, 6, "x")
        found = calibrate(model, seed=7, replicates=200, covariance=covariance)
        assert found.ok, found.summary()

    @pytest.mark.slow
    def test_two_hundred_replicates_of_lognormal_sds_pass(self):
        priors = Priors(fixed=Normal(0, 1), sd=LogNormal(-0.5, 0.7), sigma=LogNormal(0.0, 0.4))
        found = calibrate(small_model(), **FAST | {"replicates": 200, "priors": priors})
        assert found.ok, found.summary()
        assert "LogNormal(-0.5, 0.7)" in found.summary()

    @pytest.mark.slow
    @pytest.mark.parametrize("at", [1, 2])
    def test_each_dropped_jacobian_is_caught_by_two_hundred(self, at):
        """Of the group SD and of the residual SD, in a table of six rows."""
        priors = Priors(fixed=Normal(0, 1), sd=Gamma(2, 2), sigma=Gamma(2, 1))
        study = FAST | {"replicates": 200, "priors": priors}
        assert calibrate(small_model(3, 2), **study).ok
        found = calibrate(small_model(3, 2), evaluate=drop_log_jacobian(at), **study)
        name = ("Intercept", "var(Intercept|g)", "var(Residual)")[at]
        assert any(text.startswith(name) for text in found.failures), found.summary()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("priors", "covariance"),
        [
            (Priors(sd=Exponential(1), corr=LKJ(1)), None),
            (Priors(sd={"x": Gamma(2, 1)}, sigma=Exponential(0.5)), None),
            (None, "independent"),
        ],
    )
    def test_other_priors_pass(self, priors, covariance):
        model = small_model(12, 6, "x")
        found = calibrate(model, seed=6, replicates=200, priors=priors, covariance=covariance)
        assert found.ok, found.summary()


class TestStudy:
    def test_moments_do_as_well_as_a_model(self):
        model = small_model()
        one = calibrate(model, replicates=3, **FAST)
        other = calibrate(model.moments, replicates=3, **FAST)
        np.testing.assert_array_equal(one.ranks, other.ranks)

    def test_seeds_differ_and_replicates_do(self):
        one = calibrate(small_model(), replicates=6, **FAST)
        other = calibrate(small_model(), replicates=6, **(FAST | {"seed": 2}))
        assert not np.array_equal(one.ranks, other.ranks)
        assert len(np.unique(one.ranks[:, 0])) > 2

    @pytest.mark.slow
    def test_processes_do_not_matter(self):
        calls = []
        alone = calibrate(small_model(), replicates=8, **FAST)
        shared = calibrate(
            small_model(), replicates=8, **(FAST | {"processes": 2}),
            progress=lambda done, total: calls.append((done, total)),
        )  # fmt: skip
        np.testing.assert_array_equal(alone.ranks, shared.ranks)
        np.testing.assert_array_equal(alone.ess, shared.ess)
        np.testing.assert_array_equal(alone.p, shared.p)
        assert calls == [(done, 8) for done in range(9)]

    def test_priors_are_those_of_the_data_given(self):
        """Autoscaled once: the same numbers draw the parameters and fit every replicate."""
        study = plan(small_model().moments)
        seen = []

        def spy(white, priors, sizes):
            seen.append(priors)
            raise InterruptedError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bhlm.studies.calibration.run.state_density", spy)
            for number in range(3):
                with pytest.raises(InterruptedError):
                    run_replicate(study, number)
        assert all(priors is study.priors for priors in seen)

    def test_every_quantity_has_a_name(self):
        names = quantity_names(plan(simulate_rows(2, "x", n_groups=9).model.moments))
        assert names == (
            "Intercept", "x", "w", "var(Intercept|g)", "var(x|g)", "cov(Intercept,x|g)",
            "var(Residual)", "corr(Intercept,x|g)", "log-likelihood", "log posterior density",
        )  # fmt: skip

    def test_divergences_are_counted(self):
        priors = replace(VAGUE, sd=HalfNormal(0.5))
        found = calibrate(
            small_model(), replicates=6, **(FAST | {"priors": priors, "tune": 1}),
            target_accept=0.05,
        )  # fmt: skip
        assert found.divergences.sum() > 0
        assert "divergent transitions" in found.summary()
        assert found.to_dict()["divergent_replicates"] == (found.divergences > 0).sum()


TESTS = Path(__file__).parents[1]
SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
if __name__ == "__main__":
    from small_studies import FAST, small_model
    from bhlm.studies.calibration.run import calibrate
    calibrate(small_model(), replicates=4000, file={file!r}, **(FAST | {{"processes": 2}}))
"""


def count_first(file):
    """Return how many replicates a file has of a study's first half, which the other process does.

    The one that waits for it works from the end.
    """
    lines = file.read_bytes().split(b"\n")[1:-1] if file.exists() else []
    return sum(json.loads(line)["replicate"] < 2000 for line in lines)


class TestFile:
    @pytest.mark.slow
    def test_a_killed_study_goes_on(self, tmp_path):
        file = tmp_path / "study.jsonl"
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(tests=str(TESTS), file=str(file)))
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 120.0
            while count_first(file) < 5:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
        # Its output ends when the last worker has ended, which nobody told to.
        process.communicate(timeout=30.0)
        with file.open("ab") as stream:
            stream.write(b'{"replicate": 11, "ranks": [1, 2')
        kept = count_first(file)
        replicates = kept + 4
        calls = []
        resumed = calibrate(
            small_model(), replicates=replicates, file=file, **FAST,
            progress=lambda done, total: calls.append(done),
        )  # fmt: skip
        assert calls == list(range(kept, replicates + 1))
        whole = calibrate(small_model(), replicates=replicates, **FAST)
        np.testing.assert_array_equal(resumed.ranks, whole.ranks)
        for key, value in whole.to_dict().items():
            assert key == "seconds" or resumed.to_dict()[key] == value
        np.testing.assert_array_equal(resumed.ess, whole.ess)
        assert count_first(file) == replicates

    def test_a_finished_study_is_read_and_can_grow_or_shrink(self, tmp_path):
        file = tmp_path / "study.jsonl"
        first = calibrate(small_model(), replicates=4, file=file, **FAST)
        more = calibrate(small_model(), replicates=6, file=str(file), **FAST)
        np.testing.assert_array_equal(first.ranks, more.ranks[:4])
        # Nothing is left to run.
        fewer = calibrate(small_model(), replicates=3, file=file, evaluate=pytest.fail, **FAST)
        np.testing.assert_array_equal(fewer.ranks, more.ranks[:3])

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"seed": 2}, "its seed is 1, here it is 2"),
            ({"thin": 9}, "thin"),
            ({"tune": 201}, "tune"),
            ({"priors": replace(VAGUE, sigma=HalfNormal(5.0 + 1e-12))}, "priors"),
            ({"target_accept": 0.8}, "target_accept"),
        ],
    )
    def test_another_study_is_refused(self, tmp_path, change, reason):
        file = tmp_path / "study.jsonl"
        calibrate(small_model(), replicates=2, file=file, **FAST)
        with pytest.raises(DataError, match=reason):
            calibrate(small_model(), replicates=2, file=file, **(FAST | change))

    def test_other_data_are_another_study(self, tmp_path):
        file = tmp_path / "study.jsonl"
        calibrate(small_model(), replicates=2, file=file, **FAST)
        moments = small_model().moments
        mean = moments.mean.copy()
        mean[0, -1] = np.nextafter(mean[0, -1], np.inf)
        with pytest.raises(DataError, match="data"):
            calibrate(replace(moments, mean=mean), replicates=2, file=file, **FAST)


class TestRefusals:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"replicates": 1}, {"n_draws": 0}, {"thin": 0}, {"tune": 0}, {"seed": -1},
            {"processes": 0}, {"replicates": 2.5}, {"level": 1.0}, {"target_accept": 0.0},
            {"seed": None},
        ],
    )  # fmt: skip
    def test_arguments(self, wrong):
        name, value = next(iter(wrong.items()))
        with pytest.raises(ArgumentError, match=f"{name}={value}"):
            calibrate(small_model(), **({"replicates": 2} | FAST | wrong))

    def test_improper_priors(self):
        with pytest.raises(PriorError, match="prior of Intercept is Flat, which is improper"):
            calibrate(small_model(), replicates=2, **(FAST | {"priors": Priors.flat()}))
        priors = replace(VAGUE, sigma=Flat())
        with pytest.raises(PriorError, match=r"sd\(Residual\)"):
            calibrate(small_model(), replicates=2, **(FAST | {"priors": priors}))

    def test_priors_beyond_double_precision(self):
        priors = replace(VAGUE, sigma=Gamma(1e-4, 1.0))
        with pytest.raises(PriorError, match="double precision"):
            calibrate(small_model(), replicates=4, **(FAST | {"priors": priors}))

    def test_designs_and_structures(self):
        with pytest.raises(ArgumentError, match="toeplitz"):
            calibrate(small_model(), replicates=2, covariance="toeplitz", **FAST)
        with pytest.raises(IdentifiabilityError):
            calibrate(small_model(3, 1), replicates=2, **FAST)

    @pytest.mark.slow
    def test_a_script_without_a_guard(self, tmp_path):
        """Workers do not run the script again, which would start the study once more."""
        script = tmp_path / "script.py"
        script.write_text(
            f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n"
            "from small_studies import FAST, small_model\n"
            "from bhlm.studies.calibration.run import calibrate\n"
            "print('once')\n"
            "calibrate(small_model(), replicates=2, **(FAST | {'processes': 2}))\n"
        )
        result = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stdout) == (0, "once\n"), result.stderr


def test_no_process_of_a_study_loads_what_draws_do_without():
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
        "from small_studies import FAST, small_model\n"
        "from bhlm.studies.calibration.run import calibrate\n"
        "calibrate(small_model(random='1 + x'), replicates=2, **FAST)\n"
        "print(*sys.modules)\n"
        "import arviz\n"
        "assert sys.modules['nutpie.sample'].arviz.from_dict is arviz.from_dict\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    unused = {"arviz", "arviz_plots", "matplotlib", "plotly", "pymc"}
    assert unused & set(result.stdout.split()) == set()
