"""Slopes, lines and bounds by draws: the draws' own numbers, and REML's where they are normal."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from gallery_fits import fit_reml

from bhlm.bayes.contents import Contents
from bhlm.fits.bayes_fit import BayesFit
from bhlm.reml.fixed.contrasts import infer_fixed

DRAWS = 4000
NORMAL = 0.12  # of a bound by that many draws, in SDs of the moderator


@pytest.fixture(scope="module")
def post(hsb_post) -> BayesFit:
    """Table 4.5 with draws from REML's normal approximation: other fields are not looked at."""
    reml = fit_reml("hsb_intercepts_and_slopes")
    cov = infer_fixed(reml, np.eye(len(reml.beta))[:1]).cov
    drawn = np.random.default_rng(1).multivariate_normal(reml.beta, cov, DRAWS)
    beta = xr.Dataset({"beta": (("chain", "draw", "fixed"), drawn[None])})
    data = xr.DataTree.from_dict({"posterior": beta})
    return BayesFit.of(replace(hsb_post, contents=Contents.of(data), moments=reml.moments))


def test_slopes_are_those_of_the_draws(post):
    found = post.effects("cwc(ses)", by={"sector": [0, 1]}, at={"gm(ses)": 0.5}, level=0.9)
    names, beta = post.moments.fixed, post.data["posterior"]["beta"].values[0]
    slope, change, cross = (
        beta[:, names.index(name)] for name in ("cwc(ses)", "sector:cwc(ses)", "gm(ses):cwc(ses)")
    )
    for sector, row in enumerate(found.to_dict("records")):
        drawn = slope + sector * change + 0.5 * cross
        assert row["mean"] == pytest.approx(drawn.mean())
        assert row["sd"] == pytest.approx(drawn.std(ddof=1))
        assert [row["lower"], row["upper"]] == pytest.approx(np.quantile(drawn, [0.05, 0.95]))
    gap = post.compare_effects("cwc(ses)", by="sector")
    assert gap["mean"].item() == pytest.approx(change.mean())
    assert gap["probability"].item() == pytest.approx((change > 0).mean())


def test_lines_and_bounds_of_normal_draws_are_those_of_reml(post):
    reml = fit_reml("hsb_intercepts_and_slopes")
    one = post.effect_lines("cwc(ses)", by="sector", values=[-1, 1])
    other = reml.effect_lines("cwc(ses)", by="sector", values=[-1, 1], method="z")
    assert one["mean"].tolist() == pytest.approx(other["estimate"].tolist(), abs=0.03)
    assert one["sd"].tolist() == pytest.approx(other["se"].tolist(), rel=0.05)
    options = {"by": "gm(ses)", "at": {"sector": 1}}
    found = post.johnson_neyman("cwc(ses)", **options)
    expected = reml.johnson_neyman("cwc(ses)", **options, method="z")
    assert found.bounds == pytest.approx(expected.bounds[1:], abs=NORMAL)
    assert [region.sign for region in found.regions] == [1]
    at = post.effects("cwc(ses)", by={"gm(ses)": found.bounds}, at={"sector": 1})
    assert at["lower"].item() == pytest.approx(0.0, abs=1e-9)
