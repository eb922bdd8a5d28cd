"""Simple slopes, lines and Johnson-Neyman bounds: Table 4.5 by hand, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from gallery_fits import fit_reml
from scipy import stats
from simulate import simulate_table

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit
from bhlm.reml.fixed.contrasts import infer_fixed

EXACT = 1e-8  # of sums of a few coefficients
BOUND = 1e-6  # of a root of the quadratic, from covariances of seven digits and more
ON_ZERO = 1e-6  # of the standard error: a moderator of 10,000 costs digits


@pytest.fixture(scope="module")
def table_4_5() -> RemlFit:
    return fit_reml("hsb_intercepts_and_slopes")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    made = simulate_table(3, n_groups=20, largest=6)
    sex = np.array(["a", "b", "c"])[np.arange(len(made)) % 3]
    return made.assign(sex=pd.Categorical(sex), far=made["w"] + 1e4)


def find_places(fit: RemlFit, *names: str) -> list[int]:
    return [fit.moments.fixed.index(name) for name in names]


def test_table_4_5_by_hand(table_4_5):
    slopes = table_4_5.effects(
        "cwc(ses)", by={"sector": [0, 1], "gm(ses)": [-1, 0, 1]}, method="z", level=0.9
    )
    names = ("cwc(ses)", "sector:cwc(ses)", "gm(ses):cwc(ses)")
    beta = dict(zip(table_4_5.moments.fixed, table_4_5.beta, strict=True))
    inner = infer_fixed(table_4_5, np.eye(len(beta))[:1]).cov
    at = find_places(table_4_5, *names)
    cov = inner[np.ix_(at, at)]
    assert len(slopes) == 6
    for row in slopes.to_dict("records"):
        c = np.array([1.0, row["sector"], row["gm(ses)"]])
        slope = beta[names[0]] + beta[names[1]] * c[1] + beta[names[2]] * c[2]
        se = np.sqrt(c @ cov @ c)
        z = stats.norm.ppf(0.95)
        expected = (slope, se, slope - z * se, slope + z * se, slope / se)
        found = [row[name] for name in ("slope", "se", "lower", "upper", "statistic")]
        assert found == pytest.approx(expected, abs=EXACT, rel=EXACT)
    # What the gallery has as printed: 2.9450 - 1.6427 for Catholic schools of average SES.
    catholic = slopes[(slopes["sector"] == 1) & (slopes["gm(ses)"] == 0)]
    assert catholic["slope"].item() == pytest.approx(1.3023, abs=2e-4)


def test_the_difference_of_slopes_is_the_interaction(table_4_5):
    found = table_4_5.compare_effects("cwc(ses)", by="sector", method="kenward-roger")
    expected = table_4_5.fixed_effects(method="kenward-roger").loc["sector:cwc(ses)"]
    assert found.index.tolist() == ["(sector = 1) - (sector = 0)"]
    for name in ("estimate", "se", "df", "p"):
        assert found[name].item() == pytest.approx(expected[name], rel=EXACT)


def test_moderators_without_values_are_spread_over_their_groups(table_4_5):
    moments = table_4_5.moments
    means = moments.mean[:, moments.columns.index("gm(ses)")]
    slopes = table_4_5.effects("cwc(ses)", by=["sector", "gm(ses)"])
    assert slopes["sector"].tolist() == [0, 0, 0, 1, 1, 1]
    middle, sd = means.mean(), means.std(ddof=1)
    assert slopes["gm(ses)"][:3].tolist() == pytest.approx([middle - sd, middle, middle + sd])
    held = table_4_5.effects("cwc(ses)", by="sector").attrs["held"]
    assert held == {"gm(ses)": pytest.approx(np.average(means, weights=moments.n))}


def test_within_and_between_move_apart(table_4_5):
    beta = dict(zip(table_4_5.moments.fixed, table_4_5.beta, strict=True))
    lines = table_4_5.effect_lines("cwc(ses)", by={"sector": 1}, at={"gm(ses)": 0}, values=[0, 2])
    start = beta["Intercept"] + beta["sector"]
    step = 2 * (beta["cwc(ses)"] + beta["sector:cwc(ses)"])
    assert lines["estimate"].tolist() == pytest.approx([start, start + step], abs=EXACT)
    assert lines["cwc(ses)"].tolist() == [0, 2]
    between = table_4_5.effects("gm(ses)", at={"cwc(ses)": 0})
    assert between["slope"].item() == pytest.approx(beta["gm(ses)"], abs=EXACT)


def test_bounds_are_the_roots_of_the_quadratic(table_4_5):
    found = table_4_5.johnson_neyman("cwc(ses)", by="gm(ses)", at={"sector": 1}, method="z")
    p = len(table_4_5.beta)
    cov = infer_fixed(table_4_5, np.eye(p)[:1]).cov
    rows = np.zeros((2, p))
    rows[0, find_places(table_4_5, "cwc(ses)", "sector:cwc(ses)")] = 1
    rows[1, find_places(table_4_5, "gm(ses):cwc(ses)")] = 1
    (v11, v13), (_, v33) = rows @ cov @ rows.T
    b1, b3 = rows @ table_4_5.beta
    t2 = stats.norm.ppf(0.975) ** 2
    roots = np.roots([b3**2 - t2 * v33, 2 * (b1 * b3 - t2 * v13), b1**2 - t2 * v11])
    assert found.bounds == pytest.approx(sorted(roots), abs=BOUND)
    assert [(region.start, region.end, region.sign) for region in found.regions] == [
        (-np.inf, found.bounds[0], -1),
        (found.bounds[1], np.inf, 1),
    ]
    assert f"above 0 where gm(ses) > {found.bounds[1]:.4f}" in found.reading
    assert f"{found.bounds[0]:.3f} is outside of that" in found.reading


@pytest.mark.parametrize("column", ["w", "far"])
def test_an_interval_ends_at_zero_at_its_bounds(table, column):
    fit = Model(f"y ~ x * {column} + (1 | g)", table).reml()
    found = fit.johnson_neyman("x", by=column, level=0.5)
    assert found.bounds
    at = fit.effects("x", by={column: list(found.bounds)}, level=0.5)
    nearest = np.minimum(at["lower"].abs(), at["upper"].abs())
    assert nearest.max() <= ON_ZERO * at["se"].max()
    for region in found.regions:
        inner = max(region.start, region.end - 0.1) if region.end < np.inf else region.start + 0.1
        inside = fit.effects("x", by={column: float(inner)}, level=0.5)
        assert np.sign(inside["lower"].item()) == np.sign(inside["upper"].item()) == region.sign


def test_levels_of_a_factor(table):
    fit = Model("y ~ x * sex + (1 | g)", table).reml()
    beta = dict(zip(fit.moments.fixed, fit.beta, strict=True))
    slopes = fit.effects("x", by="sex")
    assert slopes["sex"].tolist() == ["a", "b", "c"]
    expected = [beta["x"], beta["x"] + beta["x:sex[b]"], beta["x"] + beta["x:sex[c]"]]
    assert slopes["slope"].tolist() == pytest.approx(expected, abs=EXACT)
    share = table["sex"].value_counts(normalize=True)
    mean = fit.effects("x")["slope"].item()
    assert mean == pytest.approx(sum(share[k] * v for k, v in zip("abc", expected, strict=True)))
    gap = fit.effects("sex[b]", at={"x": 2})["slope"].item()
    assert gap == pytest.approx(beta["sex[b]"] + 2 * beta["x:sex[b]"], abs=EXACT)
    assert len(fit.compare_effects("x", by="sex")) == 3


@pytest.mark.parametrize(
    ("formula", "call", "message"),
    [
        ("x * w", lambda fit: fit.effects("ses"), "'ses' is no column of the model's fixed"),
        ("x * w", lambda fit: fit.effects("x", by="sex"), "the columns are x, w"),
        ("x + w", lambda fit: fit.effects("x", by="w"), "does not depend on 'w' in this model; it"),
        ("x * w", lambda fit: fit.effects("x", by={"w": ["a"]}), "'a' is no value of 'w'; give"),
        ("x * w", lambda fit: fit.effects("x", by={"w": []}), "'w' has 0 values; give 1 to"),
        ("x * w", lambda fit: fit.effects("x", by="w", at={"w": 1}), "held by at= and moved"),
        ("x * sex", lambda fit: fit.effects("sex"), "give one of sex[b], sex[c]"),
        ("x * sex", lambda fit: fit.effects("x", by={"sex": "d"}), "the levels are a, b, c"),
        ("x * sex", lambda fit: fit.johnson_neyman("x", by="sex"), "'sex' has levels"),
        ("x + I(x**2)", lambda fit: fit.effects("x"), "'I(x**2)' moves with 'x'"),
        ("x + x:w", lambda fit: fit.effects("x", by="w"), "give them, such as by={'w': [0, 1]}"),
        ("x * w", lambda fit: fit.compare_effects("x", by={"w": 1}), "has 0 pairs to compare"),
    ],
)
def test_what_is_refused(table, formula, call, message):
    fit = Model(f"y ~ {formula} + (1 | g)", table).reml()
    with pytest.raises(ArgumentError) as refusal:
        call(fit)
    assert message in str(refusal.value)


def test_an_average_slope_is_the_mean_of_the_slopes_of_the_rows(table):
    wide = table.assign(far=table["w"] * 2 + 1, z=np.arange(len(table)) % 4)
    fit = Model("y ~ x * sex * z + x:w + w + (1 | g)", wide).reml()
    beta = dict(zip(fit.moments.fixed, fit.beta, strict=True))
    slope = beta["x"] + beta["x:z"] * wide["z"] + beta["x:w"] * wide["w"]
    for level in "bc":
        on = (wide["sex"] == level).astype(float)
        slope += on * (beta[f"x:sex[{level}]"] + beta[f"x:sex[{level}]:z"] * wide["z"])
    assert fit.average_effects("x")["slope"].item() == pytest.approx(slope.mean(), abs=EXACT)


def test_an_average_slope_by_groups(table_4_5, hsb):
    found = table_4_5.average_effects("cwc(ses)", by="sector", method="z")
    beta = dict(zip(table_4_5.moments.fixed, table_4_5.beta, strict=True))
    means = hsb.groupby("school")["ses"].transform("mean")
    for row in found.to_dict("records"):
        slope = beta["cwc(ses)"] + beta["sector:cwc(ses)"] * row["sector"]
        slope += beta["gm(ses):cwc(ses)"] * means[hsb["sector"] == row["sector"]].mean()
        assert row["slope"] == pytest.approx(slope, abs=EXACT)


@pytest.mark.parametrize(
    ("formula", "call", "message"),
    [
        (
            "x * w * x2 * z - w:x2:z",
            {},
            "the average of w:x2:z over the rows is not known from moments",
        ),
        ("x * x2", {"by": "x2"}, "the rows cannot be told apart by 'x2', which varies within"),
        ("x * sex", {"by": "sex"}, "the rows cannot be told apart by 'sex'"),
    ],
)
def test_what_has_no_average(table, formula, call, message):
    wide = table.assign(x2=table["x"] ** 2, z=np.arange(len(table)) % 4)
    fit = Model(f"y ~ {formula} + (1 | g)", wide).reml()
    with pytest.raises(ArgumentError, match=message):
        fit.average_effects("x", **call)


def test_names_are_found_with_and_without_backquotes(table):
    called = table.rename(columns={"x": "a b", "w": "Residual"})
    called["a  b"] = called["a b"] ** 2
    fit = Model("y ~ `a b` + `a  b` + `Residual` + (1 | g)", called).reml()
    for name in ("a b", "a  b"):
        for spelled in (name, f"`{name}`"):
            slope = fit.effects(spelled)["slope"].item()
            assert slope == fit.estimates.loc[f"`{name}`", "estimate"]
    assert fit.effects("`Residual`").equals(fit.effects("Residual"))
