"""Pages of zeros and ones, proportions and counts; effects, caterpillars and checks of them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import check_refusal, run
from scipy import special, stats

import bhlm
from bhlm.errors import ArgumentError
from bhlm.fits.family_bayes_fit import FamilyBayesFit
from bhlm.fits.family_fit import FamilyFit
from bhlm.sources.datasets import load_dataset

pytestmark = pytest.mark.wide

FORMULA = "incidence / size ~ x + C(period) + (1 | herd)"
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rows = load_dataset("cbpp")
    rows["any"] = (rows["incidence"] > 0).astype(int)
    rows["x"] = np.arange(len(rows)) % 5 / 2.0
    return rows


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> bhlm.Model:
    return bhlm.Model(FORMULA, table, family="binomial")


@pytest.fixture(scope="module")
def fit(model: bhlm.Model) -> FamilyFit:
    return model.ml()


@pytest.fixture(scope="module")
def post(model: bhlm.Model) -> FamilyBayesFit:
    return model.sample(seed=2, draws=150, tune=150, chains=2)


@pytest.fixture(scope="module")
def both_page(
    fit: FamilyFit, post: FamilyBayesFit, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    page = tmp_path_factory.mktemp("both") / "page.html"
    bhlm.reconcile(fit, post).dashboard(page)
    return page


def average(eta: np.ndarray, sd: float) -> np.ndarray:
    """Return E[expit(eta + sd v)] by Gauss-Hermite, another rule than the package's."""
    return special.expit(eta[:, None] + sd * NODES) @ WEIGHTS / WEIGHTS.sum()


def read_twin(page: Path) -> dict:
    return json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


def list_blocks(twin: dict) -> dict:
    return {
        block["name"]: block
        for section in twin["sections"]
        for block in section["blocks"]
        if "name" in block
    }


def test_lines_on_the_response_scale_are_means_over_groups(fit: FamilyFit) -> None:
    at = {"C(period)": 2}
    found = fit.effect_lines("x", at=at, values=[0.0, 1.0, 2.0])
    own = fit.effect_lines("x", at=at, values=[0.0, 1.0, 2.0], kind="unit-specific")
    link = fit.effect_lines("x", at=at, values=[0.0, 1.0, 2.0], scale="link")
    beta = fit.estimates["estimate"]
    eta = beta["Intercept"] + beta["C(period)[2]"] + beta["x"] * np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(link["estimate"], eta, rtol=1e-12)
    np.testing.assert_allclose(own["estimate"], special.expit(eta), rtol=1e-12)
    np.testing.assert_allclose(
        found["estimate"], average(eta, beta["sd(Intercept|herd)"]), rtol=1e-8
    )
    half = stats.norm.ppf(0.975) * link["se"]
    np.testing.assert_allclose(own["lower"], special.expit(eta - half), rtol=1e-10)


def test_effects_on_the_response_scale(fit: FamilyFit) -> None:
    beta, sd = fit.estimates["estimate"], fit.estimates.loc["sd(Intercept|herd)", "estimate"]
    held = {"x": 0.5}
    level = fit.effects("C(period)[3]", at=held)
    low = beta["Intercept"] + 0.5 * beta["x"]
    ends = average(np.array([low, low + beta["C(period)[3]"]]), sd)
    assert level["slope"].item() == pytest.approx(ends[1] - ends[0], rel=1e-8)
    slope = fit.effects("x", at={"C(period)": 2}, kind="unit-specific")
    mean = float(fit.patterns.n @ fit.patterns.take(("x",))[:, 0] / fit.patterns.n.sum())
    p = special.expit(beta["Intercept"] + beta["C(period)[2]"] + mean * beta["x"])
    assert slope["slope"].item() == pytest.approx(p * (1.0 - p) * beta["x"], rel=1e-5)
    assert slope["se"].item() > 0.0
    by = fit.effects("x", by="C(period)", scale="response")
    assert len(by) == 4
    assert by["slope"].nunique() == 4  # on this scale every effect depends on all columns
    on_link = fit.effects("x", scale="link")
    assert on_link["slope"].item() == beta["x"]
    assert on_link["se"].item() == pytest.approx(fit.estimates.loc["x", "se"], rel=1e-12)


def test_posterior_effects_are_those_of_its_draws(post: FamilyBayesFit) -> None:
    values = [0.0, 2.0]
    found = post.effect_lines("x", at={"C(period)": 1}, values=values, kind="unit-specific")
    flat = post.flat
    drawn = special.expit(flat.beta[:, :1] + flat.beta[:, 1:2] * np.array(values))
    np.testing.assert_allclose(found["mean"], drawn.mean(axis=0), rtol=1e-12)
    averaged = post.effect_lines("x", at={"C(period)": 1}, values=values)
    assert not np.allclose(averaged["mean"], found["mean"], rtol=1e-3)
    assert np.all(averaged["lower"] < averaged["mean"])
    effect = post.effects("C(period)[2]", at={"x": 0.0}, kind="unit-specific")
    step = special.expit(flat.beta[:, 0] + flat.beta[:, 2]) - special.expit(flat.beta[:, 0])
    assert effect["mean"].item() == pytest.approx(step.mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"scale": "odds"}, "scale='odds' is not known; choose one of response, link"),
        ({"kind": "mean"}, "kind='mean' is not known; choose one of unit-specific"),
        ({"scale": "link", "kind": "population-averaged"}, "fit.population_effects"),
        ({"by": "x"}, "'x' is the column and a moderator"),
        ({"at": {"z": 1.0}}, "'z'"),
        ({"method": "kenward-roger"}, "choose one of z, cr0, cr1"),
    ],
)
def test_effects_that_cannot_be_asked_for(fit: FamilyFit, asked: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        fit.effects("x", **asked)


def test_figures_of_a_family(fit: FamilyFit, post: FamilyBayesFit) -> None:
    both = bhlm.reconcile(fit, post, checks=False)
    line = bhlm.plots.plot_effects(both, "x")
    assert set(line.table["source"]) == {"ML", "posterior"}
    assert set(line.table["kind"]) == {"unit-specific", "population-averaged"}
    levels = bhlm.plots.plot_effects(fit, "C(period)", kind="unit-specific")
    assert levels.table["C(period)"].tolist() == [1, 2, 3, 4]
    several = bhlm.plots.plot_effects(fit, "x", by={"C(period)": [1, 4]})
    assert set(several.table["kind"]) == {"population-averaged"}
    response = bhlm.plots.plot_caterpillar(both, scale="response")
    assert response.table["coefficient"].unique().tolist() == ["probability"]
    assert response.table[["u", "mean"]].min(axis=None) > 0.0
    effects = fit.group_effects()["estimate"].to_numpy()
    link = bhlm.plots.plot_caterpillar(fit).table
    np.testing.assert_allclose(np.sort(link["u"]), np.sort(effects))
    assert bhlm.plots.plot_forest(fit).table["source"].unique().tolist() == ["ML"]
    assert "Calibration" in bhlm.plots.plot_predictive(fit).panels[0].title
    with pytest.raises(ArgumentError, match="leave rows=, groups= and model= out"):
        bhlm.plots.plot_effects(fit, "x", rows=True)
    with pytest.raises(ArgumentError, match="coefficient='x' does not vary over 'herd'"):
        bhlm.plots.plot_caterpillar(fit, coefficient="x")


def test_check_at_the_estimates(fit: FamilyFit, table: pd.DataFrame) -> None:
    check = fit.check(draws=200)
    own = table.groupby("herd")[["incidence", "size"]].sum()
    np.testing.assert_allclose(check.groups["observed"], own["incidence"] / own["size"])
    assert check.ok
    new = fit.check(draws=200, kind="new groups")
    width = [(each.groups["upper"] - each.groups["lower"]).mean() for each in (check, new)]
    assert width[0] < width[1]
    turned = replace(fit.patterns, y=fit.patterns.n - fit.patterns.y)
    wrong = replace(fit, patterns=turned).check(draws=200)
    assert not wrong.ok


def test_one_command_goes_from_rows_to_the_page_of_a_fit(
    table: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows, page = tmp_path / "rows.csv", tmp_path / "page.html"
    table.to_csv(rows, index=False)
    asked = ["--formula", "incidence ~ x + (1 | herd)", "--family", "poisson"]
    asked += ["--exposure", "size", "--dashboard", page]
    status, _, err = run(capsys, "ml", "--data", rows, *asked)
    assert (status, err) == (0, "")
    twin = read_twin(page)
    assert twin["outcome"]["label"] == "Converged"
    assert twin["outcome"]["headline"] == "The ML fit converged to an interior maximum."
    assert [section["name"] for section in twin["sections"]] == [
        "verdict", "effects", "groups", "checks", "reproduction",
    ]  # fmt: skip
    assert twin["model"]["family"] == "poisson"
    text = json.dumps(twin["sections"])
    assert "could not be computed" not in text
    assert "REML" not in text
    assert "--exposure size" in text
    facts = dict(list_blocks(twin)["facts"]["items"])
    assert float(facts["Log-likelihood known to"]) < 1e-8
    assert facts["Rows dropped"] == "0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("any ~ x + (1 | herd)", ["--family", "bernoulli", "--link", "probit"]),
        (FORMULA, ["--family", "binomial"]),
        ("incidence ~ x + (1 | herd)", ["--family", "poisson", "--exposure", "size"]),
    ],
)
def test_one_command_goes_from_rows_to_the_page_of_both(
    table: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    formula: str,
    options: list[str],
) -> None:
    rows, page, saved = (tmp_path / name for name in ("rows.csv", "page.html", "fit.nc"))
    table.to_csv(rows, index=False)
    asked = ["--data", rows, "--formula", formula, *options, "--dashboard", page, "--save", saved]
    assert run(capsys, "reconcile", *asked)[0] == 0
    twin = read_twin(page)
    text = json.dumps(twin["sections"])
    assert "could not be computed" not in text
    assert "REML" not in text
    blocks = list_blocks(twin)
    assert {"forest", "estimates", "ratios", "attribution", "response", "predictive"} <= set(blocks)
    assert twin["outcome"]["findings"]["model_checks"]["status"] in ("holds", "caution")
    again = tmp_path / "again.html"
    assert run(capsys, "dashboard", saved, "--output", again)[0] == 0
    assert read_twin(again)["reconciliation"]["verdict"] == twin["reconciliation"]["verdict"]
    check_refusal(
        run(capsys, "dashboard", saved, "--output", again, "--rows", "--data", rows),
        "leave --data and --rows out",
    )


def test_sensitivity_to_the_priors_is_that_of_the_draws(post: FamilyBayesFit) -> None:
    np.testing.assert_allclose(
        post.sum_logliks(), post.data["log_likelihood"]["loglik"].sum(dim="herd"), rtol=1e-12
    )
    table = post.sensitivity().table
    assert set(table.index) >= {"Intercept", "sd(Intercept|herd)"}
    assert table["likelihood"].min() > 0.0


def test_the_page_of_a_posterior(post: FamilyBayesFit, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    post.dashboard(page)
    twin = read_twin(page)
    assert [section["name"] for section in twin["sections"]] == [
        "verdict", "effects", "convergence", "groups", "checks", "priors", "reproduction",
    ]  # fmt: skip
    assert "could not be computed" not in json.dumps(twin["sections"])
    ratios = list_blocks(twin)["ratios"]
    assert ratios["title"] == "Odds ratios"
    # An elpd without its constants is no log density: the page says so beside the number.
    loo = post.loo()
    told = page.read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")
    assert f"is {loo.elpd:,.1f} (SE {loo.se:,.1f}), with" in told
    assert "leaves out what no parameter changes" in told


@pytest.mark.parametrize(
    ("family", "slope", "nearer"),
    [("binomial", 0.0, True), ("binomial", 1.5, False), ("poisson", 0.0, False)],
)
def test_ratios_of_means_are_said_to_be_nearer_to_1_where_all_are(
    family: str, slope: float, nearer: bool, tmp_path: Path
) -> None:
    """Not of a log link; and with random slopes the odds at zero may be further off."""
    rng = np.random.default_rng(5)
    rows = pd.DataFrame({"g": np.repeat(np.arange(30), 8), "x": rng.normal(size=240)})
    u = rng.normal(size=30)
    eta = 0.8 * rows["x"] + np.repeat(u, 8) * (1.0 - slope * rows["x"])
    random = "(x | g)" if slope else "(1 | g)"
    rows["y"] = (
        rng.poisson(np.exp(eta)) if family == "poisson" else eta + rng.logistic(size=240) > 0
    )
    rows["y"] = rows["y"].astype(int)
    page = tmp_path / "page.html"
    found = bhlm.Model(f"y ~ x + {random}", rows, family=family).ml()
    own, averaged = found.beta, found.population_effects()["estimate"].to_numpy()
    assert (np.abs(averaged) < np.abs(own)).all() == nearer
    found.dashboard(page)
    ratios = list_blocks(read_twin(page))["ratios"]
    assert ("nearer to 1" in json.dumps(ratios)) == nearer


def read_cells(page: Path, name: str) -> list[list[str]]:
    """The cells of a table as the page shows them."""
    text = page.read_text(encoding="utf-8")
    body = re.search(rf'data-table="[^"]*-{name}".*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert body is not None
    rows = re.findall(r"<tr.*?</tr>", body[1], re.DOTALL)
    return [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)]
        for row in rows
    ]


@pytest.mark.parametrize("name", ["estimates", "ratios", "effects", "group_table"])
def test_an_estimate_has_the_decimals_of_its_interval(both_page: Path, name: str) -> None:
    pairs = [
        (cells[at - 1], cell.split(" to ")[0])
        for cells in read_cells(both_page, name)
        for at, cell in enumerate(cells)
        if " to " in cell
    ]
    assert len(pairs) > 3
    for estimate, end in pairs:
        assert len(estimate.partition(".")[2]) == len(end.partition(".")[2]), (estimate, end)
