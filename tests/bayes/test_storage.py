"""Saved fits: the same to the last bit, whole or not there, and refused when damaged."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from killed_saves import fingerprint
from simulate import simulate_table

from bhlm.bayes.draws import Settings
from bhlm.bayes.priors.families import Flat, HalfNormal, Normal, PyMCPrior
from bhlm.bayes.priors.resolve import Priors
from bhlm.bayes.sampling import sample_moments
from bhlm.bayes.storage import file as fits
from bhlm.bayes.storage.arrays import digest_arrays
from bhlm.bayes.storage.description import describe_fit, hash_moments, rebuild_fit
from bhlm.bayes.storage.file import save
from bhlm.errors import ArgumentError, DataError, MissingPackageError, PriorError
from bhlm.files import name_previous
from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.fits.saved import load
from bhlm.reports.text.posterior import render_posterior
from bhlm.sources.gallery import find_model

pytestmark = pytest.mark.wide

N_GROUPS = 12
SHORT = {"draws": 30, "tune": 100, "chains": 2}
FORMATS = ("zarr", pytest.param("nc", marks=pytest.mark.slow))
BOTH_FORMATS = ("zarr", "nc")
# The largest saved fit of Table 4.4, 4000 draws of which u alone is 10.2 MB.
MEGABYTES = {"zarr": 15.0, "nc": 14.5}
# Flipped bits that are tried; a small HDF5 file is mostly bytes that nothing depends on.
FLIPS = 30
KILLED_SAVES = Path(__file__).parents[1] / "killed_saves.py"


def make_model(seed: int = 1) -> Model:
    table = simulate_table(seed, n_groups=N_GROUPS)
    table["size"] = np.array(["small", "large"])[table["g"].to_numpy() % 2]
    return Model("y ~ cgm(x) + size + (cgm(x) | g)", table)


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


@pytest.fixture(scope="module")
def post(model: Model) -> BayesFit:
    priors = Priors(fixed={"cgm(x)": Normal(0, 0.1)}, sigma=HalfNormal(1 / 3))
    return model.sample(seed=1, priors=priors, **SHORT)


@pytest.fixture(scope="module")
def other() -> BayesFit:
    return make_model(2).sample(seed=2, **SHORT)


@pytest.mark.parametrize("covariance", [None, "unstructured", "independent"])
@pytest.mark.parametrize("random", ["(x | g)", "(1 | g) + (0 + x | g)"])
def test_an_older_description_names_the_blocks(random, covariance):
    table = simulate_table(4, n_groups=N_GROUPS)
    fit = Model(f"y ~ x + {random}", table).sample(seed=1, covariance=covariance, **SHORT)
    description, arrays = describe_fit(fit)
    content = json.loads(description)
    assert content["covariance"] == fit.structure.name_override
    del content["covariance"]
    back = rebuild_fit(json.dumps(content | {"blocks": fit.structure.blocks}), arrays)
    assert back.structure == fit.structure
    np.testing.assert_array_equal(back.white.basis, fit.white.basis)


def keep_posterior(fit: BayesFit) -> BayesFit:
    """Return a fit whose file has a third of the arrays, where a test saves many times."""
    posterior = fit.data["posterior"].to_dataset()
    return fit.with_data(xr.DataTree.from_dict({"posterior": posterior}))


@pytest.fixture(scope="module")
def small(post: BayesFit) -> BayesFit:
    return keep_posterior(post)


@pytest.fixture(scope="module")
def another(other: BayesFit) -> BayesFit:
    return keep_posterior(other)


@pytest.fixture(scope="module")
def put(tmp_path_factory: pytest.TempPathFactory) -> Callable[[BayesFit, Path], None]:
    """Put the file of a fit somewhere: it is saved once, and copied."""
    kept: dict[tuple[int, str], Path] = {}
    folder = tmp_path_factory.mktemp("kept")

    def put_file(fit: BayesFit, path: Path) -> None:
        key = (id(fit), path.suffix)
        if key not in kept:
            kept[key] = folder / f"{len(kept)}{path.suffix}"
            save(fit, kept[key])
        (shutil.copytree if path.suffix == ".zarr" else shutil.copy)(kept[key], path)

    return put_file


def assert_same(back: BayesFit, fit: BayesFit) -> None:
    """Compare every field, and what every method returns, to the last bit."""
    for field in fields(fit.moments):
        ours, theirs = getattr(back.moments, field.name), getattr(fit.moments, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs, strict=True)
            assert [type(x) for x in ours.ravel()] == [type(x) for x in theirs.ravel()]
        else:
            assert ours == theirs
    for field in fields(fit.white):
        ours, theirs = getattr(back.white, field.name), getattr(fit.white, field.name)
        np.testing.assert_array_equal(ours, theirs)
    xr.testing.assert_identical(back.data, fit.data)
    assert list(back.data.children) == list(fit.data.children)
    for name in fit.data.children:
        for ours, theirs in zip(
            back.data[name].variables.items(), fit.data[name].variables.items(), strict=True
        ):
            assert ours[0] == theirs[0]
            assert ours[1].values.dtype == theirs[1].values.dtype
            assert ours[1].values.tobytes() == theirs[1].values.tobytes() or (
                theirs[1].values.dtype.kind in "OT"
            )
    assert back.structure == fit.structure
    assert back.settings == fit.settings
    assert repr(back.diagnostics) == repr(fit.diagnostics)
    assert (back.seed, back.seconds, back.sampler) == (fit.seed, fit.seconds, fit.sampler)
    assert back.priors.every == fit.priors.every
    assert back.priors.corr == fit.priors.corr
    np.testing.assert_array_equal(back.priors.frame.fixed, fit.priors.frame.fixed, strict=True)
    np.testing.assert_array_equal(back.priors.frame.random, fit.priors.frame.random, strict=True)
    assert render_posterior(back) == render_posterior(fit)
    pd.testing.assert_frame_equal(back.estimates, fit.estimates, check_exact=True)
    pd.testing.assert_frame_equal(back.group_effects(), fit.group_effects(), check_exact=True)
    some = fit.moments.groups[1:3].tolist()
    xr.testing.assert_identical(back.effect_draws(some), fit.effect_draws(some))
    for name, draws in fit.draws.items():
        np.testing.assert_array_equal(back.draws[name], draws, strict=True)
    assert fingerprint(back) == fingerprint(fit)


@pytest.mark.parametrize("format", BOTH_FORMATS)
def test_a_fit_comes_back_to_the_last_bit(model, post, tmp_path, format):
    path = tmp_path / f"fit.{format}"
    post.save(path)
    assert_same(load(path), post)
    assert os.listdir(tmp_path) == [path.name]
    assert type(load(str(path)).priors.sigma.sigma) is float
    found = load(path).moments.design
    assert found == model.design
    assert found.constants
    assert found.levels


@pytest.mark.slow
def test_table_4_4_comes_back_and_is_reconciled_alike(hsb_both, tmp_path):
    post, expected = hsb_both.post, hsb_both.to_dict()
    for format in BOTH_FORMATS:
        path = tmp_path / f"fit.{format}"
        post.save(path)
        files = [path] if path.is_file() else [x for x in path.rglob("*") if x.is_file()]
        assert sum(file.stat().st_size for file in files) < MEGABYTES[format] * 1e6
        assert_same(load(path), post)
    published = find_model("hsb_random_coefficient").published
    found = reconcile(hsb_both.reml, load(path), published=published).to_dict()
    # What may differ from run to run.
    for result in (found, expected):
        result["posterior"]["diagnostics"].pop("seconds")
    assert found == expected


LABELS = {
    "small integers": np.arange(N_GROUPS, dtype=np.int16) - 5,
    "large integers": np.arange(N_GROUPS, dtype=np.uint64) + np.uint64(2**63),
    "foreign integers": np.arange(N_GROUPS).astype(">i4"),
    "floats": np.concatenate([[-np.inf], np.arange(N_GROUPS - 1) / 3]),
    "text": np.array(sorted(["", "école", "a" * 40, *"bcdefghij"])),
    "text objects": np.array(sorted(["", "école", "a" * 40, *"bcdefghij"]), dtype=object),
    "text strings": np.array(sorted(["", "école", *"bcdefghijk"]), dtype=np.dtypes.StringDType()),
    "days": np.arange(N_GROUPS).astype("M8[D]"),
    "microseconds": np.datetime64("1200-03-04T05:06:07.000008") + np.arange(N_GROUPS),
    "nanoseconds": np.arange(N_GROUPS).astype("M8[ns]"),
    "dates": np.array([date(1500 + i, 2, 3) for i in range(N_GROUPS)], dtype=object),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == "dates" else pytest.mark.slow) for kind in LABELS],
)
def test_labels_keep_their_type(model, tmp_path, format, kind):
    moments = replace(model.moments, groups=LABELS[kind])
    fit = sample_moments(moments, seed=1, settings=Settings(**SHORT))
    path = tmp_path / f"fit.{format}"
    save(fit, path)
    assert_same(load(path), fit)


@pytest.mark.slow
@pytest.mark.parametrize("format", BOTH_FORMATS)
def test_two_groups_by_truth(tmp_path, format):
    table = simulate_table(3, n_groups=2, largest=30).assign(g=lambda t: t["g"] == 1)
    fit = Model("y ~ x + (1 | g)", table).sample(seed=1, **SHORT)
    assert fit.moments.groups.dtype == bool
    save(fit, tmp_path / f"fit.{format}")
    assert_same(load(tmp_path / f"fit.{format}"), fit)


@pytest.mark.parametrize("format", FORMATS)
def test_whatever_stands_in_data_comes_back(post, tmp_path, format):
    """Values that a fill value could swallow, and groups and attributes of one's own."""
    odd = np.array([-0.0, 0.0, np.nan, -np.inf, 5e-324])
    odd.view(np.uint64)[2] |= 0xFFF8000000000ABC  # a nan with a sign and a payload
    own = xr.Dataset(
        {
            "odd": ("five", odd),
            "zeros": ("five", np.full(5, -0.0)),
            "nothing": ("five", np.full(5, np.nan), {"units": "mm", "valid": [1.0, 2.0]}),
            "signed": ("five", np.full(5, -np.nan)),
            "single": ("five", np.arange(5, dtype=np.float32)),
            "number": ((), np.float64(0.1)),
            "empty": ("none", np.zeros(0)),
            "words": (("two", "one"), np.array([["a"], ["bc"]])),
            "yes": ("five", np.arange(5) > 2),
            "when": ("two", np.array(["1999-12-31T23:59:59", "NaT"], dtype="M8[s]")),
            "span": ("two", np.array([1, -(2**60)], dtype="m8[ns]")),
            "reversed": (("five", "two"), np.arange(10.0).reshape(2, 5).T),
        },
        {"place": ("five", list("vwxyz"))},
        {"who": "me", "n": 3, "nested": {"a": [1, None, True]}, "none": None, "names": []},
    )
    data = post.data.copy()
    data["mine"] = xr.DataTree(own, children={"deeper": xr.DataTree(own[["odd"]])})
    data.attrs["note"] = "kept"
    fit = post.with_data(data)
    path = tmp_path / f"fit.{format}"
    save(fit, path)
    back = load(path)
    assert fingerprint(back) == fingerprint(fit)
    assert back.data.attrs["note"] == "kept"
    ours = back.data["mine/deeper"].dataset["odd"].values
    assert ours.tobytes() == odd.tobytes()
    assert back.data["mine"].attrs == own.attrs
    assert "place" in back.data["mine"].coords
    assert back.data["mine"]["when"].dtype == "M8[s]"


@pytest.mark.slow
@pytest.mark.parametrize("format", BOTH_FORMATS)
def test_what_was_left_out_for_size_stays_out(model, tmp_path, format):
    settings = Settings(**SHORT)
    fit = BayesFit.of(sample_moments(model.moments, seed=3, settings=settings, held=100))
    save(fit, tmp_path / f"fit.{format}")
    back = load(tmp_path / f"fit.{format}")
    assert "u" not in back.data["posterior"]
    assert "log_likelihood" not in back.data
    assert_same(back, fit)


def test_a_prior_run_and_flat_priors_come_back(model, tmp_path):
    priors = Priors(fixed=Normal(1, 2), sd=HalfNormal(2))
    for name, fit in {
        "prior": model.sample(seed=4, prior_only=True, priors=priors, **SHORT),
        "flat": model.sample(seed=4, priors=Priors.flat(), covariance="independent", **SHORT),
    }.items():
        save(fit, tmp_path / f"{name}.zarr")
        assert_same(load(tmp_path / f"{name}.zarr"), fit)
    assert load(tmp_path / "flat.zarr").priors.is_flat
    assert isinstance(load(tmp_path / "flat.zarr").priors.sigma, Flat)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_pymc_prior_comes_back_as_its_text(model, post, tmp_path, format):
    import pymc as pm

    custom = PyMCPrior(pm.Weibull.dist(2.0, 5.0))
    fit = replace(post, priors=replace(post.priors, sigma=custom, sd=(custom, custom)))
    path = tmp_path / f"fit.{format}"
    save(fit, path)
    back = load(path)
    assert render_posterior(back) == render_posterior(fit)
    assert "PyMC weibull(2, 5)" in render_posterior(back)
    save(back, path)
    assert render_posterior(load(path)) == render_posterior(fit)
    stored = load(path).priors.sigma
    for use in (
        {"sigma": stored},
        {"sd": stored},
        {"fixed": stored},
        {"sd": {"Intercept": stored}},
    ):
        with pytest.raises(PriorError, match=r"weibull\(2, 5\) comes from a saved fit"):
            model.sample(seed=1, priors=Priors(**use), **SHORT)
    from bhlm.bayes.density import build_density

    with pytest.raises(PriorError, match="give the distribution again"):
        build_density(back.white, back.priors, back.structure)


def test_a_hash_does_not_depend_on_the_order_of_bytes():
    values = np.array([1.5, -2.0])
    assert digest_arrays("", [values.astype(">f8")]) == digest_arrays("", [values.astype("<f8")])
    assert digest_arrays("", [values[::-1]]) == digest_arrays("", [values[::-1].copy()])
    assert digest_arrays("", [values]) != digest_arrays("", [-values])


def test_the_hash_of_the_data_tells_data_apart(model, post, other):
    assert hash_moments(model.moments) == hash_moments(post.moments)
    assert hash_moments(make_model().moments) == hash_moments(post.moments)
    assert hash_moments(other.moments) != hash_moments(post.moments)
    mean = post.moments.mean.copy()
    mean[3, 0] = np.nextafter(mean[3, 0], np.inf)
    assert hash_moments(replace(post.moments, mean=mean)) != hash_moments(post.moments)


def open_zarr(path: Path) -> xr.DataTree:
    import arviz as az

    return az.from_zarr(path)


def open_netcdf(path: Path) -> xr.DataTree:
    import arviz as az

    return az.from_netcdf(path)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of corr's 1s
@pytest.mark.filterwarnings("ignore:Estimated shape parameter:UserWarning")  # of 60 draws
@pytest.mark.parametrize(
    ("format", "opened"),
    [
        ("zarr", open_zarr),
        pytest.param("zarr", xr.open_datatree, marks=pytest.mark.slow),
        pytest.param("nc", open_netcdf, marks=pytest.mark.slow),
        pytest.param("nc", xr.open_datatree, marks=pytest.mark.slow),
    ],
)
def test_arviz_takes_the_file_as_it_is(post, tmp_path, format, opened):
    import arviz as az

    path = tmp_path / f"fit.{format}"
    post.save(path)
    names = {"var_names": ["beta", "sd", "sigma"]}
    with opened(path) as tree:
        # The order of variables is the file's.
        summary = az.summary(tree).sort_index()
        pd.testing.assert_frame_equal(summary, az.summary(post.data).sort_index())
        assert str(az.loo(tree)) == str(az.loo(post.data))
        sensitivity = az.psense_summary(tree, **names).sort_index()
        expected = az.psense_summary(post.data, **names).sort_index()
        pd.testing.assert_frame_equal(sensitivity, expected)
        for name in ("sample_stats", "posterior", "log_prior", "log_likelihood"):
            xr.testing.assert_identical(tree[name].to_dataset(), post.data[name].to_dataset())


# Damage -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_file_of_a_folder_is_guarded(small, put, tmp_path):
    """Whatever file is lost or has a bit turned, the fit is refused or read to the last bit."""
    put(small, tmp_path / "fit.zarr")
    expected = fingerprint(small)
    files = [x.relative_to(tmp_path / "fit.zarr") for x in (tmp_path / "fit.zarr").rglob("*")]
    files = sorted(file for file in files if (tmp_path / "fit.zarr" / file).is_file())
    rng = np.random.default_rng(1)
    refused = 0
    for number, file in enumerate(files):
        path = tmp_path / "copy.zarr"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tmp_path / "fit.zarr", path)
        if number % 2:
            (path / file).unlink()
        else:
            content = bytearray((path / file).read_bytes())
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            (path / file).write_bytes(content)
        try:
            assert fingerprint(load(path)) == expected
            # The root's metadata repeat those of the arrays, and are what is read.
            assert file.name == "zarr.json" or number % 2 == 0
        except DataError as error:
            refused += 1
            assert f"'{path}'" in str(error)
            assert "\n" not in str(error)
    assert refused > len(files) // 3


@pytest.mark.slow
def test_a_file_with_a_bit_turned_is_refused_or_read_right(small, put, tmp_path):
    path = tmp_path / "fit.nc"
    put(small, path)
    content, expected = path.read_bytes(), fingerprint(small)
    rng = np.random.default_rng(2)
    refused = 0
    for at in rng.integers(len(content), size=FLIPS):
        changed = bytearray(content)
        changed[at] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            assert fingerprint(load(path)) == expected
        except DataError as error:
            refused += 1
            assert f"'{path}' is" in str(error)
    assert refused > FLIPS // 5


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_file_that_is_cut_off_is_refused(small, put, tmp_path, share):
    path = tmp_path / "fit.nc"
    put(small, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"fit.nc' is (corrupted|not a saved fit)") as error:
        load(path)
    assert "again" in str(error.value) or "fit.save()" in str(error.value)


def set_schema(path: Path, value: int) -> None:
    if path.is_dir():
        import zarr

        for file in (path / "zarr.json", path / "bhlm_moments" / "zarr.json"):
            text = file.read_text()
            assert text.count('"schema": 1') == 1
            file.write_text(text.replace('"schema": 1', f'"schema": {value}'))
        assert zarr.open_group(path, mode="r")["bhlm_moments"].attrs["schema"] == value
    else:
        import h5py

        with h5py.File(path, "r+") as file:
            file["bhlm_moments"].attrs["schema"] = value


@pytest.mark.parametrize("format", BOTH_FORMATS)
def test_a_newer_layout_is_refused(small, put, tmp_path, format):
    path = tmp_path / f"fit.{format}"
    put(small, path)
    set_schema(path, 2)
    with pytest.raises(DataError, match=r"version 2 of the layout, and .* version 1; upgrade"):
        load(path)


@pytest.mark.parametrize("name", ["foreign.nc", "foreign.zarr", "text.nc", "folder", "empty.zarr"])
def test_what_is_not_a_fit_is_refused(post, tmp_path, name):
    path = tmp_path / name
    foreign = xr.DataTree.from_dict({"/posterior": post.data["posterior"].to_dataset()})
    if name == "foreign.nc":
        foreign.to_netcdf(path, engine="h5netcdf")
    elif name == "foreign.zarr":
        foreign.to_zarr(path, consolidated=False)
    elif name == "text.nc":
        path.write_text("no HDF5 file starts like this")
    else:
        path.mkdir()
        (path / "letter.txt").write_text("dear") if name == "folder" else None
    with pytest.raises(DataError, match=f"'{path}' is not a saved fit"):
        load(path)


def test_the_format_with_a_codec_for_pickles_is_refused(small, put, tmp_path):
    path = tmp_path / "fit.zarr"
    put(small, path)
    with xr.open_datatree(path, decode_cf=False) as tree:
        plain = tree.load().map_over_datasets(lambda dataset: dataset.drop_encoding())
    shutil.rmtree(path)
    plain.to_zarr(path, zarr_format=2)
    with pytest.raises(DataError, match=f"'{path}' is not a saved fit"):
        load(path)


@pytest.mark.parametrize("name", ["fit.zarr", "fit.nc", "away/fit.zarr", "away/fit.nc"])
def test_a_path_without_a_fit_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}' does not exist; give the path of a saved fit"):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["fit.pkl", "fit", "zarr"])
def test_an_unknown_ending_is_refused(post, tmp_path, name):
    with pytest.raises(ArgumentError, match=f"{name}' ends in neither .zarr nor .nc"):
        save(post, tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", BOTH_FORMATS)
def test_a_place_that_cannot_be_written_to_is_refused(small, tmp_path, format):
    with pytest.raises(DataError, match=r"cannot write .* \(No such file or directory\); choose"):
        save(small, tmp_path / "away" / f"fit.{format}")
    assert os.listdir(tmp_path) == []


def test_nothing_else_is_overwritten_by_a_folder(small, tmp_path):
    mine = tmp_path / "mine.zarr"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    file = tmp_path / "file.zarr"
    file.write_text("mine")
    for path in (mine, file):
        with pytest.raises(DataError, match="is there and is not a saved fit, so it is left alone"):
            save(small, path)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert file.read_text() == "mine"
    (tmp_path / "made.zarr").mkdir()
    save(small, tmp_path / "made.zarr")
    assert_same(load(tmp_path / "made.zarr"), small)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_link_stays_a_link(post, other, tmp_path, format):
    real, link = tmp_path / f"real.{format}", tmp_path / f"link.{format}"
    save(post, real)
    link.symlink_to(real)
    save(other, link)
    assert link.is_symlink()
    assert_same(load(real), other)
    assert_same(load(link), other)
    if format == "zarr":  # what a kill between two renamings leaves is seen through the link too
        os.rename(real, name_previous(real))
        assert_same(load(link), other)


@pytest.mark.parametrize("format", FORMATS)
def test_a_fit_can_move(small, tmp_path, format):
    save(small, tmp_path / f"fit.{format}")
    os.rename(tmp_path / f"fit.{format}", tmp_path / "renamed")
    assert_same(load(tmp_path / "renamed"), small)


@pytest.mark.parametrize(
    ("format", "module", "extra"),
    [("zarr", "zarr", "zarr"), ("nc", "h5netcdf", "netcdf"), ("nc", "h5py", "netcdf")],
)
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch, small, put, tmp_path, format, module, extra
):
    path = tmp_path / f"fit.{format}"
    put(small, path)
    monkeypatch.setitem(sys.modules, module, None)
    expected = rf"pip install 'bhlm\[{extra}\]'"
    with pytest.raises(
        MissingPackageError, match=f"reading '{path}' needs the package .*{expected}"
    ):
        load(path)
    with pytest.raises(
        MissingPackageError, match=f"saving '{path}' needs the package .*{expected}"
    ):
        save(small, path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("odd", ["object", "attribute", "group", "complex"])
def test_content_that_has_no_place_in_a_file_is_refused(small, another, put, tmp_path, format, odd):
    data = small.data.copy()
    if odd == "attribute":
        data.attrs["function"] = print
    elif odd == "group":
        data["bhlm_moments"] = xr.DataTree()
    else:
        values = np.array([1, "a"], dtype=object) if odd == "object" else np.array([1j, 2j])
        data["mine"] = xr.DataTree(xr.Dataset({"x": ("two", values)}))
    path = tmp_path / f"fit.{format}"
    put(another, path)
    with pytest.raises(DataError, match=r"no place in a file|is the file's own"):
        save(small.with_data(data), path)
    assert fingerprint(load(path)) == fingerprint(another)


@pytest.mark.parametrize("format", FORMATS)
def test_what_would_be_read_as_something_else_is_not_put_in_place(
    monkeypatch, small, another, put, tmp_path, format
):
    """A writer that loses a bit is found out before the old content is gone."""
    path = tmp_path / f"fit.{format}"
    put(another, path)
    packed = fits.pack_array

    def lose(array, name):
        stored, attrs = packed(array, name)
        return (stored.astype(np.float32) if stored.ndim == 4 else stored), attrs

    monkeypatch.setattr(fits, "pack_array", lose)
    with pytest.raises(DataError, match="would be read as something else"):
        save(small, path)
    assert fingerprint(load(path)) == fingerprint(another)
    assert os.listdir(tmp_path) == [path.name]


# Failures and kills in the middle -----------------------------------------------------------------


@pytest.mark.parametrize(("there", "fails"), [(False, 0), (True, 0), (True, 1)])
def test_a_renaming_that_fails_leaves_what_was_there(
    monkeypatch, small, another, put, tmp_path, fails, there
):
    path = tmp_path / "fit.zarr"
    if there:
        put(another, path)
    rename, calls = os.rename, []

    def fail(source, target):
        calls.append(source)
        if len(calls) == fails + 1:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(DataError, match=r"cannot write .* \(No space left on device\)"):
        save(small, path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == (["fit.zarr"] if there else [])
    if there:
        assert fingerprint(load(path)) == fingerprint(another)


def test_only_leftovers_of_the_same_path_are_removed(small, tmp_path):
    keep = [".fit.zarr.b.zarr.abcd1234.saving", ".fit.zarr.saving", ".xfit.zarr.abcd.saving"]
    for name in (*keep, ".fit.zarr.abcd_123.saving"):
        (tmp_path / name).mkdir()
    files = [".fit.nc.abcd_123", ".fit.nc.toolong_1", ".fit.nc.Old_Copy"]
    for name in files:
        (tmp_path / name).touch()
    save(small, tmp_path / "fit.zarr")
    save(small, tmp_path / "fit.nc")
    assert set(os.listdir(tmp_path)) == {*keep, *files[1:], "fit.zarr", "fit.nc"}


def test_two_writers_and_a_reader_do_not_meet(small, another, put, tmp_path):
    path = tmp_path / "fit.zarr"
    put(small, path)
    allowed = {fingerprint(small), fingerprint(another)}
    found: list[str] = []
    failures: list[BaseException] = []

    def work(step: Callable[[], None]) -> None:
        try:
            for _ in range(2):
                step()
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(step,))
        for step in (
            lambda: save(small, path),
            lambda: save(another, path),
            lambda: found.append(fingerprint(load(path))),
            lambda: found.append(fingerprint(load(path))),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(found) == 4
    assert set(found) <= allowed
    assert os.listdir(tmp_path) == ["fit.zarr"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_save_leaves_the_old_fit_or_the_new(post, other, tmp_path, format):
    save(keep_posterior(post), tmp_path / "old.nc")
    save(keep_posterior(other), tmp_path / "new.nc")
    done = subprocess.run(
        [sys.executable, KILLED_SAVES, tmp_path, format],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = dict(line.split() for line in done.stdout.splitlines())
    # Both outcomes were seen, so kills fell on both sides of the moment that matters.
    assert int(report["old"]) > 0
    assert int(report["new"]) > 0
    assert int(report["absent"]) > 0
    if format == "zarr":
        assert int(report["between"]) > 0


@pytest.mark.parametrize("ending", BOTH_FORMATS)
def test_a_fit_is_saved_beside_an_open_cluster(ending: str, tmp_path: Path) -> None:
    """xarray would ask the scheduler of dask.distributed for a lock, which it does not know."""
    pytest.importorskip("distributed")
    script = tmp_path / "script.py"
    script.write_text(
        "from distributed import Client, LocalCluster\n"
        "import bhlm\n"
        "from simulate import simulate_table\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=1, dashboard_address=None) as cluster, Client(cluster):\n"
        "        model = bhlm.Model('y ~ x + (1 | g)', simulate_table(1, n_groups=12))\n"
        "        post = model.sample(seed=1, draws=30, tune=50, chains=2)\n"
        f"        path = r'{tmp_path / 'fit'}.{ending}'\n"
        "        post.save(path)\n"
        "        assert bhlm.load(path).estimates.equals(post.estimates)\n"
    )
    paths = [str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
