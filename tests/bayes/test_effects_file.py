"""All group effects in one file: what the fit says of them, in memory that does not grow."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from bhlm.bayes.draws import STREAM, Settings
from bhlm.bayes.effects_file import save_effects
from bhlm.bayes.sampling import sample_moments
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.model import Model

# Quantiles here and NumPy's interpolate the same two draws, rounded on the way.
ROUNDING = 1e-13
COLUMNS = ["mean", "sd", "lower", "upper"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(700), 3)
    x = rng.normal(size=len(g))
    y = rng.normal(size=700)[g] + x * rng.normal(size=700)[g] + rng.normal(size=len(g))
    return pd.DataFrame({"g": np.array([f"g{i:03d}" for i in g]), "x": x, "y": y})


@pytest.fixture(scope="module")
def fit(table: pd.DataFrame) -> BayesFit:
    return Model("y ~ x + (x | g)", table).sample(seed=2, draws=60, tune=200, chains=2)


@pytest.fixture(scope="module", params=["held", "streamed"])
def either(request: pytest.FixtureRequest, table: pd.DataFrame, fit: BayesFit) -> BayesFit:
    """A fit that holds the effects, and one of so many groups that it does not."""
    if request.param == "held":
        return fit
    moments = Model("y ~ x + (x | g)", table).moments
    settings = Settings(draws=60, tune=200, chains=2)
    return BayesFit.of(sample_moments(moments, seed=2, settings=settings, held=1000))


def test_summaries_are_those_of_the_fit(either: BayesFit, tmp_path: Path) -> None:
    save_effects(either, tmp_path / "u.parquet")
    found, expected = pd.read_parquet(tmp_path / "u.parquet"), either.group_effects()
    assert list(found.columns) == list(expected.columns) == ["g", "coefficient", *COLUMNS]
    assert found["g"].tolist() == expected["g"].tolist()
    assert found["coefficient"].tolist() == expected["coefficient"].tolist()
    np.testing.assert_allclose(found[COLUMNS], expected[COLUMNS], rtol=0, atol=ROUNDING)


def test_draws_are_those_of_the_fit(either: BayesFit, tmp_path: Path) -> None:
    either.save_effects(tmp_path / "u.parquet", draws=True)
    found = pd.read_parquet(tmp_path / "u.parquet")
    u = either.effect_draws().values  # (chain, draw, group, coefficient)
    expected = u.reshape(-1, u.shape[2] * u.shape[3]).T
    np.testing.assert_array_equal(np.stack(found["draws"].to_list()), expected)


def test_a_file_is_written_in_pieces(fit: BayesFit, tmp_path: Path) -> None:
    """Row groups of a bounded size are what keeps memory bounded, here and for the reader."""
    save_effects(fit, tmp_path / "one.parquet")
    save_effects(fit, tmp_path / "many.parquet", flushed=1)
    assert pq.ParquetFile(tmp_path / "one.parquet").num_row_groups == 1
    assert pq.ParquetFile(tmp_path / "many.parquet").num_row_groups == -(-700 // STREAM)
    assert pq.read_table(tmp_path / "many.parquet").equals(pq.read_table(tmp_path / "one.parquet"))


@pytest.mark.parametrize("cores", [1, 3])
def test_cores_change_nothing(fit: BayesFit, cores: int, tmp_path: Path) -> None:
    save_effects(fit, tmp_path / "u.parquet")
    save_effects(fit, tmp_path / "v.parquet", cores=cores)
    assert (tmp_path / "u.parquet").read_bytes() == (tmp_path / "v.parquet").read_bytes()


def test_a_writer_that_stops_leaves_the_old_file(fit: BayesFit, tmp_path: Path) -> None:
    path = tmp_path / "u.parquet"
    save_effects(fit, path)
    before = path.read_bytes()
    told = []

    def stop(done: int, groups: int) -> None:
        told.append((done, groups))
        if done > STREAM:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_effects(fit, path, progress=stop, flushed=1)
    assert told == [(STREAM, 700), (2 * STREAM, 700)]
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["u.parquet"]


def test_what_cannot_be_written_is_one_clear_line(
    fit: BayesFit, table: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=r"u\.csv' does not end in \.parquet"):
        save_effects(fit, tmp_path / "u.csv")
    with pytest.raises(DataError, match="choose a folder that exists"):
        save_effects(fit, tmp_path / "absent" / "u.parquet")
    renamed = table.rename(columns={"g": "mean"})
    other = Model("y ~ x + (1 | mean)", renamed).sample(seed=1, draws=5, tune=50, chains=1)
    with pytest.raises(ArgumentError, match="group 'mean' has the name of a column"):
        save_effects(other, tmp_path / "u.parquet")
