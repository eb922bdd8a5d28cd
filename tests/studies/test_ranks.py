"""The verdict on ranks: right ones pass, wrong ones are named with their direction."""

import json

import numpy as np
import pytest

from bhlm.studies.calibration.result import describe_ranks, judge_ranks

L = 99
ABOUT = {
    "thin": 10,
    "tune": 500,
    "seed": 1,
    "formula": "y ~ x + (1 | g)",
    "n_rows": 60,
    "n_groups": 12,
    "priors": {"Intercept": "Normal(0, 1)"},
    "seconds": 2.0,
}


def judge(columns, *, n_draws=L, level=0.99, divergences=None, ess=None):
    ranks = np.column_stack(list(columns.values()))
    n = len(ranks)
    return judge_ranks(
        tuple(columns), ranks, n_draws=n_draws, level=level,
        divergences=np.zeros(n, dtype=int) if divergences is None else divergences,
        ess=np.full(n, 500.0) if ess is None else ess, **ABOUT,
    )  # fmt: skip


def draw_ranks(n, *, shift=0.0, width=1.0, seed=1):
    """Ranks of standard normal true values among draws of N(shift, width^2)."""
    rng = np.random.default_rng(seed)
    return (shift + width * rng.normal(size=(n, L)) < rng.normal(size=(n, 1))).sum(axis=1)


def test_right_ranks_pass():
    found = judge({"a": draw_ranks(1000), "b": draw_ranks(1000, seed=2)})
    assert found.ok
    assert found.failures == ()
    assert found.notes == ()
    assert "Calibrated" in found.summary()
    assert found.threshold == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"shift": 0.4}, "rank too low (mean 0.39"),
        ({"shift": -0.4}, "rank too high (mean 0.61"),
        ({"width": 0.7}, "the posterior is too narrow"),
        ({"width": 1.4}, "the posterior is too wide"),
    ],
)
def test_wrong_ranks_are_named(wrong, words):
    found = judge({"right": draw_ranks(1000), "wrong": draw_ranks(1000, seed=3, **wrong)})
    assert not found.ok
    assert len(found.failures) == 1
    assert found.failures[0].startswith("wrong: ")
    assert words in found.failures[0]
    assert found.estimates["inside"].tolist() == [True, False]
    assert "NOT CALIBRATED" in found.summary()
    assert found.failures[0] in found.summary()
    # The largest deviation has the sign of the ECDF's: positive when ranks are low.
    if "shift" in wrong:
        assert np.sign(found.deviation[1]) == np.sign(wrong["shift"])


def test_biased_posteriors_are_called_by_their_own_side():
    assert describe_ranks(draw_ranks(500, shift=0.5), L).endswith("the posterior is high")
    assert describe_ranks(draw_ranks(500, shift=-0.5), L).endswith("the posterior is low")


def test_ranks_without_a_direction_are_told_so():
    ranks = np.tile([21, 78], 90)  # the mean and, nearly, the variance of uniform ranks
    found = judge({"a": ranks})
    assert "look at ecdf()" in found.failures[0]


@pytest.mark.parametrize("n_draws", [1, 2])
def test_few_draws_are_no_error(n_draws):
    found = judge({"a": np.zeros(200, dtype=int)}, n_draws=n_draws)
    assert "rank too low" in found.failures[0]


def test_bonferroni_covers_all_quantities():
    column = draw_ranks(200, shift=0.26)
    p = judge({"a": column}).p[0]
    assert 0.001 < p < 0.01  # so that one quantity fails and ten do not
    assert not judge({"a": column}).ok
    assert judge({"a": column} | {f"b{i}": draw_ranks(200, seed=i) for i in range(9)}).ok
    assert judge({"a": column}, level=0.9999).ok


def test_the_curves_leave_their_band_exactly_when_the_verdict_fails():
    found = judge({"right": draw_ranks(300), "wrong": draw_ranks(300, shift=0.5)})
    curves = found.ecdf()
    outside = [
        ((curves[name] < curves["lower"] - 1e-12) | (curves[name] > curves["upper"] + 1e-12)).any()
        for name in ("right", "wrong")
    ]
    assert outside == [False, True]
    assert curves.index.name == "z"
    assert len(curves) == L
    np.testing.assert_allclose(curves["wrong"].abs().max(), abs(found.deviation[1]), rtol=1e-12)


def test_doubtful_replicates_are_said_and_kept():
    n = 200
    divergences, ess = np.zeros(n, dtype=int), np.full(n, 500.0)
    divergences[:3], ess[:2], ess[5] = 4, 40.0, np.nan
    found = judge({"a": draw_ranks(n)}, divergences=divergences, ess=ess)
    assert found.ok
    assert "3 of 200 replicates had divergent transitions, 12 in all" in found.notes[0]
    assert "3 of 200 replicates had a bulk ESS below the 99 draws" in found.notes[1]
    assert not any("raise" in note for note in found.notes)
    assert all(note in found.summary() for note in found.notes)
    many = judge({"a": draw_ranks(n)}, divergences=np.ones(n, dtype=int), ess=np.zeros(n))
    assert "raise target_accept" in many.notes[0]
    assert "raise thin" in many.notes[1]


def test_the_json_and_the_tables():
    found = judge({"a": draw_ranks(50), "b": draw_ranks(50, shift=2.0)})
    json_text = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert json_text["ok"] is False
    assert json_text["quantities"]["a"]["inside"] is True
    assert json_text["quantities"]["b"]["p"] == found.p[1]
    assert json_text["failures"] == list(found.failures)
    assert json_text["model"] == {"formula": "y ~ x + (1 | g)", "n": 60, "groups": 12}
    assert found.rank_table.shape == (50, 2)
    assert found.rank_table["b"].tolist() == found.ranks[:, 1].tolist()
