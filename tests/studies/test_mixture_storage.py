"""The posterior given plausible values, saved and loaded: the draws to the last bit, or refused."""

import json

import numpy as np
import pandas as pd
import pytest
from command_line import run

import bhlm
from bhlm.errors import ArgumentError, DataError

pytestmark = pytest.mark.wide

SHORT = {"draws": 60, "tune": 150, "chains": 2, "seed": 3}
REFITTED = 1e-8  # relative: the fits by ML are searched for again, from another start


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(12), 6)
    found = pd.DataFrame({"g": [f"{each:03d}" for each in g], "x": rng.normal(size=72)})
    true = found["x"] + rng.normal(size=12)[g]
    for name in ("a", "b", "c"):
        found[name] = true + rng.normal(size=72)
    found["w"], found["W"] = rng.uniform(1, 3, 72), rng.uniform(1, 3, 12)[g]
    return found


def pool(table: pd.DataFrame, kind: str) -> bhlm.PooledFit:
    given = {
        "plain": {"df": "kenward-roger", "level": 0.9},
        "precision": {"weights": "w"},
        "sampling": {
            "weights": bhlm.SamplingWeights("w", "W"), "method": "ml", "errors": "block",
        },
    }[kind]  # fmt: skip
    return bhlm.fit_imputations("a + b + c ~ x + (1 | g)", table, **given)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("sampling", "nc"),
        ("plain", "zarr"),
        pytest.param("precision", "nc", marks=pytest.mark.slow),
    ],
)
def test_a_mixture_comes_back(kind, ending, table, tmp_path):
    pooled = pool(table, kind)
    mixture = pooled.sample(**SHORT)
    path = tmp_path / f"post.{ending}"
    mixture.save(path)
    assert {each.name for each in tmp_path.iterdir() if not each.name.startswith(".")} == {
        *(f"post.{at}.{ending}" for at in (1, 2, 3)),
        f"post.{ending}.mixture",
    }
    for given in (path, tmp_path / f"post.{ending}.mixture"):
        found = bhlm.load(given)
        assert type(found) is type(mixture)
        pd.testing.assert_frame_equal(found.estimates, mixture.estimates)
        for name, draws in mixture.draws.items():
            np.testing.assert_array_equal(found.draws[name], draws)
        np.testing.assert_allclose(
            found.pooled.estimates.astype(float), pooled.estimates.astype(float), REFITTED, 1e-9
        )
        assert (found.seed, found.pooled.df, found.pooled.level) == (3, pooled.df, pooled.level)
    found.dashboard(tmp_path / "page.html")
    assert bhlm.reconcile(found.pooled, found).verdict == bhlm.reconcile(pooled, mixture).verdict
    # Each imputation's posterior is one of its own, too.
    one = bhlm.load(tmp_path / f"post.2.{ending}")
    pd.testing.assert_frame_equal(one.estimates, mixture.fits[1].estimates)


def test_what_does_not_belong_together_is_refused(table, tmp_path):
    mixture = pool(table, "plain").sample(**SHORT)
    path = tmp_path / "post.nc"
    mixture.save(path)
    index, second = tmp_path / "post.nc.mixture", tmp_path / "post.2.nc"
    told = json.loads(index.read_text())
    kept = second.read_bytes()
    second.write_bytes((tmp_path / "post.1.nc").read_bytes())
    with pytest.raises(DataError, match=r"post\.2\.nc' is not the posterior that"):
        bhlm.load(path)
    second.unlink()
    with pytest.raises(DataError, match=r"post\.2\.nc"):
        bhlm.load(path)
    second.write_bytes(kept)
    for broken, match in (
        ({**told, "schema": 9}, "has the schema 9"),
        ({**told, "df": "other"}, "was changed"),
        ({**told, "errors": 3}, "was changed"),
        ({"fits": told["fits"]}, "no index of a saved mixture"),
        ([], "no index of a saved mixture"),
    ):
        index.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=match) as error:
            bhlm.load(path)
        assert "\n" not in str(error.value)
    # A posterior of its own at that path would be read in the place of the mixture.
    mixture.fits[0].data["posterior"]  # it is there
    path.write_bytes(kept)
    with pytest.raises(ArgumentError, match="a posterior of its own"):
        mixture.save(path)
    with pytest.raises(ArgumentError, match=r"neither \.zarr nor \.nc"):
        mixture.save(tmp_path / "post.h5")


def test_fits_by_replicate_weights_are_not_saved(table, tmp_path):
    columns = {f"r{k}": table["W"] * np.where(table["g"] == f"{k:03d}", 0.0, 1.1) for k in range(9)}
    replicates = bhlm.ReplicateWeights(groups=list(columns), method="JK1")
    pooled = bhlm.fit_imputations(
        "a + b ~ x + (1 | g)", table.assign(**columns), weights=bhlm.SamplingWeights("w", "W"),
        method="ml", errors=replicates,
    )  # fmt: skip
    mixture = pooled.sample(**SHORT)
    with pytest.raises(ArgumentError, match="cannot be had again from moments"):
        mixture.save(tmp_path / "post.nc")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sample", "reconcile"])
def test_commands_keep_the_mixture(name, table, tmp_path, capsys):
    path, kept = tmp_path / "rows.csv", tmp_path / "post.nc"
    table.to_csv(path, index=False)
    given = ["--data", path, "--formula", "a + b + c ~ x + (1 | g)", "--save", kept]
    short = ["--draws", "60", "--tune", "150", "--chains", "2", "--seed", "3"]
    status, _, err = run(capsys, name, *given, *short)
    assert status in (0, 1), err
    own = bhlm.fit_imputations("a + b + c ~ x + (1 | g)", path).sample(**SHORT)
    pd.testing.assert_frame_equal(bhlm.load(kept).estimates, own.estimates)
    kept.write_text("of another kind")
    status, _, err = run(capsys, name, *given, *short)
    assert status == 2
    assert err.count("\n") == 1
