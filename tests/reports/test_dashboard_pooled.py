"""The page of fits pooled over plausible values or imputations, and its figures."""

import json

import numpy as np
import pandas as pd
import pytest
from command_line import run

import bhlm
from bhlm import plots
from bhlm.errors import ArgumentError
from bhlm.plots.imputations import find_reach

pytestmark = pytest.mark.wide

NAMES = ["pv1", "pv2", "pv3"]
FORMULA = "pv1 + pv2 + pv3 ~ x + (1 | g)"


def make_table(groups: int = 25, noise: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(groups), 6)
    x, u = rng.normal(size=len(g)), rng.normal(size=groups)
    found = pd.DataFrame({"g": g, "x": x, "w": rng.uniform(1, 3, len(g))})
    for name in NAMES:
        found[name] = x + u[g] + rng.normal(size=len(g)) + noise * rng.normal(size=len(g))
    return found


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return make_table()


@pytest.fixture(scope="module")
def pooled(table) -> bhlm.PooledFit:
    return bhlm.fit_imputations(FORMULA, table)


def read_twin(page):
    return json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


def find_block(twin, section, name):
    (found,) = [each for each in twin["sections"] if each["name"] == section]
    (block,) = [each for each in found["blocks"] if each.get("name") == name]
    return {column["name"]: column["values"] for column in block["columns"]}


def test_one_command_goes_from_plausible_values_to_a_page(table, pooled, tmp_path, capsys):
    path, page = tmp_path / "pupils.csv", tmp_path / "page.html"
    table.to_csv(path, index=False, sep=";")
    asked = ["pool", path, "--formula", FORMULA, "--separator", ";", "--dashboard", page]
    status, printed, _ = run(capsys, *map(str, asked))
    assert status == 0
    assert "3 fits pooled by Rubin's rules" in printed
    twin = read_twin(page)
    assert [section["name"] for section in twin["sections"]] == ["verdict", "fits", "reproduction"]
    assert "could not be computed" not in json.dumps(twin["sections"])
    shown = find_block(twin, "verdict", "estimates")
    expected = pooled.estimates.loc[shown["parameter"]]
    np.testing.assert_allclose(shown["estimate"], expected["estimate"])
    np.testing.assert_allclose(shown["fmi"], expected["fmi"])
    assert twin["pooled"]["m"] == 3
    assert "--separator ';'" in json.dumps(twin["sections"][-1], ensure_ascii=False)
    text = page.read_text(encoding="utf-8")
    assert "pv1 + pv2 + pv3 ~ x + (1 | g)" in text
    # The page is about no single group.
    assert "No single group of 'g'" in twin["holds"]["sentences"][1]


def test_imputed_tables_are_pooled_by_one_command(table, tmp_path, capsys):
    paths = []
    for at, name in enumerate(NAMES):
        paths.append(tmp_path / f"imputed{at}.csv")
        table.assign(y=table[name]).to_csv(paths[-1], index=False)
    page = tmp_path / "page.html"
    asked = ["pool", *paths, "--formula", "y ~ x + (1 | g)", "--dashboard", page]
    assert run(capsys, *map(str, asked))[0] == 0
    fits = find_block(read_twin(page), "fits", "fits")["fit"]
    assert fits == ["table 1", "table 2", "table 3"]


def test_weights_and_effective_sizes_are_told(table, tmp_path):
    weights = bhlm.SamplingWeights(rows="w")
    found = bhlm.fit_imputations(FORMULA, table, method="ml", weights=weights)
    found.dashboard(tmp_path / "page.html")
    told = json.dumps(read_twin(tmp_path / "page.html")["sections"])
    size = found.fits[0].moments.effective_size
    assert f"effective sample size {size['rows']:.5g} of 150 rows" in told
    assert "weights=bhlm.SamplingWeights(rows='w'" in told


def test_the_information_that_is_missing_calls_for_more_values(tmp_path):
    found = bhlm.fit_imputations(FORMULA, make_table(noise=4.0))
    found.dashboard(tmp_path / "page.html")
    blocks = read_twin(tmp_path / "page.html")["sections"][0]["blocks"]
    (light,) = [
        block for block in blocks if block.get("heading", "").startswith("Missing information")
    ]
    scaled = [str(each) for each in found.parameters if not each.is_squared]
    fmi = found.estimates.loc[scaled, "fmi"].max()
    assert light["tone"] == "caution"
    assert light["heading"] == f"Missing information: at most {100 * fmi:.0f} %"
    # von Hippel (2020): fmi / sqrt(2 (m - 1)), and 1 + (fmi / 0.05)^2 / 2 fits for 5 %.
    assert f"within {50.0 * fmi:.0f} %" in light["sentences"][1]
    assert light["sentences"][2].startswith(f"{int(np.ceil(1 + 200 * fmi**2))} of them")


def test_singular_fits_are_told(tmp_path):
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"g": np.repeat(np.arange(8), 5), "x": rng.normal(size=40)})
    for name in NAMES:
        value = rng.normal(size=40)
        table[name] = value - pd.Series(value).groupby(table["g"]).transform("mean")
    found = bhlm.fit_imputations(FORMULA, table)
    assert all(fit.singular for fit in found.fits)
    found.dashboard(tmp_path / "page.html")
    twin = read_twin(tmp_path / "page.html")
    assert twin["outcome"]["label"] == "Singular fits"
    assert twin["outcome"]["tone"] == "caution"
    assert "on the boundary in 3 of 3 fits" in json.dumps(twin["sections"])


def test_the_figure_has_every_fit_and_the_pooled_one(pooled):
    figure = plots.plot_imputations(pooled)
    table = figure.table
    assert len(figure.panels) == 4
    for at, fit in enumerate(pooled.fits):
        own = table[table["fit"] == NAMES[at]].set_index("parameter")
        np.testing.assert_array_equal(own["value"], fit.estimates.loc[own.index, "estimate"])
    last = table[table["fit"] == "pooled"].set_index("parameter")
    expected = pooled.estimates.loc[last.index, ["estimate", "lower", "upper"]]
    np.testing.assert_array_equal(last[["value", "lower", "upper"]], expected)
    lost = plots.plot_missing_information(pooled)
    assert lost.reading.startswith(f"It is largest for {pooled.estimates['fmi'].idxmax()}")


def test_one_endless_interval_does_not_squash_the_others(pooled):
    figure = plots.plot_imputations(pooled)
    assert "beyond the axis" not in figure.reading
    rows = figure.table[figure.table["parameter"] == "sd(Intercept|g)"].reset_index(drop=True)
    low, high = find_reach(rows)
    assert (low, high) == (rows["lower"].min(), rows["upper"].max())
    rows.loc[1, "upper"] = 1e6
    assert find_reach(rows)[0] == low
    assert high <= find_reach(rows)[1] < high + 4.0 * (high - low)


@pytest.mark.parametrize("plot", [plots.plot_imputations, plots.plot_missing_information])
def test_what_is_not_pooled_is_refused(pooled, plot):
    with pytest.raises(ArgumentError, match=r"RemlFit; give what bhlm.pool\(\) or"):
        plot(pooled.fits[0])


BRIEF = {"draws": 1000, "tune": 500, "chains": 2}


@pytest.fixture(scope="module")
def mixture(pooled):
    return pooled.sample(seed=1, **BRIEF)


def test_the_mixture_has_a_page(mixture, tmp_path):
    page = tmp_path / "page.html"
    mixture.dashboard(page)
    twin = read_twin(page)
    assert [each["name"] for each in twin["sections"]] == [
        "verdict", "posterior", "fits", "reproduction",
    ]  # fmt: skip
    assert twin["outcome"]["label"] == "Converged and pooled"
    shown = find_block(twin, "posterior", "mixture")
    assert shown["parameter"][:2] == ["Intercept", "x"]
    estimates = mixture.estimates
    assert shown["posterior mean"][1] == pytest.approx(estimates.loc["x", "mean"])
    assert shown["fmi"][1] == pytest.approx(estimates.loc["x", "fmi"])
    each = find_block(twin, "posterior", "posteriors")
    assert each["given"] == NAMES
    assert each["converged"] == ["yes"] * 3
    assert twin["posterior"]["estimates"]["x"]["mean"] == estimates.loc["x", "mean"]
    told = page.with_suffix(".json").read_text(encoding="utf-8")
    assert "mixture = pooled.sample(seed=1, draws=1000, tune=500, chains=2)" in told
    assert mixture.to_dict()["posterior"]["converged"]


def test_a_mixture_of_draws_that_fail_says_so(pooled, tmp_path):
    poor = pooled.sample(seed=1, draws=8, tune=5, chains=2)
    assert not poor.converged
    poor.dashboard(tmp_path / "page.html")
    twin = read_twin(tmp_path / "page.html")
    assert twin["outcome"]["label"] == "Not converged"
    assert twin["outcome"]["tone"] == "bad"
    assert "the draws given" in twin["outcome"]["headline"].lower()
    assert "Sample again" in twin["outcome"]["advice"][0]


def test_the_reconciliation_of_pooled_fits_has_a_page(pooled, mixture, tmp_path):
    both = bhlm.reconcile(pooled, mixture)
    page = tmp_path / "page.html"
    both.dashboard(page)
    twin = read_twin(page)
    assert [each["name"] for each in twin["sections"]][:3] == [
        "verdict", "reconciliation", "posterior",
    ]  # fmt: skip
    assert twin["outcome"]["headline"] == both.conclusion
    shares = find_block(twin, "reconciliation", "shares")
    names = list(both.table.index.astype(str))
    assert shares["shape"] == pytest.approx([float(x) for x in both.table["shape"]])
    assert shares["parameter"] == names
    assert twin["reconciliation"]["verdict"] == both.verdict
    told = page.with_suffix(".json").read_text(encoding="utf-8")
    assert "both = bhlm.reconcile(pooled, mixture)" in told


@pytest.mark.parametrize("what", ["sample", "reconcile"])
def test_one_command_goes_from_plausible_values_to_the_page_of_their_posterior(
    what, table, tmp_path, capsys
):
    table.to_csv(tmp_path / "rows.csv", index=False)
    page = tmp_path / "page.html"
    given = ["--data", tmp_path / "rows.csv", "--formula", FORMULA]
    status, out, err = run(
        capsys, what, *given, "--group-weights", "g1", "--dashboard", page, "--draws", 300,
        "--tune", 300, "--chains", 2, "--weights", "w", "--no-adjust",
    )  # fmt: skip
    assert status == 2  # no column g1
    assert "g1" in err
    status, out, err = run(
        capsys, what, *given, "--weights", "w", "--weights-are", "sampling", "--dashboard", page,
        "--draws", 300, "--tune", 300, "--chains", 2, "--no-adjust",
    )  # fmt: skip
    assert status in (0, 1), err
    assert "NOT adjusted" in " ".join(out.split())
    told = page.with_suffix(".json").read_text(encoding="utf-8")
    assert "adjust=False" in told
    assert f"bhlm {what} --data" in told
    assert "--no-adjust" in told
    refused = run(capsys, what, *given, "--method", "independent")
    assert refused[0] == 2
    assert "--method is not there with several responses" in refused[2]
