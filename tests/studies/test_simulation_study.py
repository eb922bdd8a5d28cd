"""The study's TOML: read strictly, and identified by all that its replicates depend on."""

import copy
import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import bhlm.studies.simulation.study as module
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import Flat, HalfNormal
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError, PriorError
from bhlm.studies.simulation.conditions import Condition
from bhlm.studies.simulation.study import identify_study, parse_study, read_study

EXAMPLE = Path(__file__).parents[2] / "comparisons" / "studies" / "small_groups.toml"
SMALLEST = {
    "seed": 1,
    "replicates": 2,
    "model": {"fixed": {"Intercept": 0.0}},
    "grid": {"groups": 5, "group_size": 4, "icc": 0.2},
}


def documented() -> str:
    """Return the TOML that the module's docstring shows."""
    lines = module.__doc__.split("\n\n")[1:]
    return "\n\n".join(textwrap.dedent(part) for part in lines if part.startswith("    "))


def changed(key: str, value) -> dict:
    """Return the smallest study with one dotted key set."""
    content = copy.deepcopy(SMALLEST)
    *tables, last = key.split(".")
    table = content
    for name in tables:
        table = table.setdefault(name, {})
    table[last] = value
    return content


def test_the_documented_file_is_read():
    study = parse_study(tomllib.loads(documented()))
    assert study.title == "Few schools"
    assert study.truth.fixed == (("Intercept", 0.0), ("x", 0.3), ("w", 0.3))
    assert study.truth.formula == "y ~ x + w + (x | group)"
    assert len(study.conditions) == 2 * 3 * 2 * 1 * 2
    assert study.total == 500 * 24
    assert study.conditions[-1] == Condition(30, (2, 8, 20), 0.3, 0.1, 0.5)
    assert study.df_methods == ("z", "satterthwaite", "kenward-roger")
    assert study.variance_methods == ("wald", "profile")
    assert study.priors == (
        ("default", Priors()),
        ("uniform", Priors(sd=Flat(), corr=LKJ(1.0), sigma=Flat())),
    )


def test_the_documented_defaults_are_the_defaults():
    content = tomllib.loads(documented())
    shorter = copy.deepcopy(content)
    del shorter["reml"], shorter["bayes"]
    for key in ("random", "correlated", "residual_variance"):
        del shorter["model"][key]
    assert parse_study(shorter) == parse_study(content)


def test_the_example_is_read():
    study = read_study(EXAMPLE)
    assert study.total == 2000
    assert [name for name, _ in study.priors] == ["default", "uniform"]


def test_the_smallest_study():
    study = parse_study(SMALLEST, name="few.toml")
    assert study.title == "few"
    assert study.conditions == (Condition(5, (4,), 0.2, 0.0, 0.0),)
    assert study.priors == ()


def test_what_is_not_there_is_not_correlated():
    grid = SMALLEST["grid"] | {"slope_variance": [0.0, 0.5], "correlation": [0.0, 0.5]}
    found = parse_study(SMALLEST | {"grid": grid}).conditions
    assert found == (
        Condition(5, (4,), 0.2, 0.0, 0.0),
        Condition(5, (4,), 0.2, 0.5, 0.0),
        Condition(5, (4,), 0.2, 0.5, 0.5),
    )


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("replicate", r"the file has the unknown key 'replicate'; did you mean 'replicates'\?"),
        ("grid.icct", r"\[grid\] has the unknown key 'icct'; did you mean 'icc'\?"),
        ("model.fixed.z", r"\[model.fixed\] has the unknown key 'z'; known are Intercept, x, w"),
        ("model.n", r"\[model\] has the unknown key 'n'"),
        ("reml.method", r"\[reml\] has the unknown key 'method'; known are df"),
        ("bayes.draw", r"\[bayes\] has the unknown key 'draw'; did you mean 'draws'\?"),
        ("priors.a.sigm", r"\[priors.a\] has the unknown key 'sigm'; did you mean 'sigma'\?"),
    ],
)
def test_an_unknown_key_is_named(key, error):
    with pytest.raises(ArgumentError, match=error) as caught:
        parse_study(changed(key, 1), name="a.toml")
    assert str(caught.value).startswith("a.toml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["seed", "replicates", "grid.groups", "grid.group_size", "grid.icc"]
)
def test_a_missing_key_is_named(key):
    *_, last = key.split(".")
    content = copy.deepcopy(SMALLEST)
    del (content["grid"] if "." in key else content)[last]
    with pytest.raises(ArgumentError, match=f"has no key '{last}'"):
        parse_study(content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("title", " "), ("title", 3), ("seed", -1), ("seed", 1.0), ("seed", True),
        ("replicates", 1), ("replicates", "2"), ("model", 3), ("model.fixed", {}),
        ("model.fixed", {"x": 1.0}), ("model.fixed.x", "1"), ("model.fixed.x", float("inf")),
        ("model.fixed.x", True), ("model.random", ["x"]), ("model.random", "x"),
        ("model.random", ["Intercept", "w"]), ("model.random", ["Intercept", "Intercept"]),
        ("model.correlated", 1), ("model.residual_variance", 0.0), ("grid.groups", 1),
        ("grid.groups", []), ("grid.groups", [5, 2.5]), ("grid.groups", True),
        ("grid.group_size", 0), ("grid.group_size", [[]]), ("grid.group_size", [[3, 0]]),
        ("grid.icc", 1.0), ("grid.icc", [0.1, -0.1]), ("grid.icc", float("nan")),
        ("grid.slope_variance", -1), ("grid.correlation", 1.5), ("reml.df", ["kr"]),
        *((key, 10**500) for key in ("grid.correlation", "grid.icc", "model.fixed.x")),
        ("reml.df", [["z"]]), ("reml.variances", [{}]), ("bayes.target_accept", 10**500),
        ("reml.df", "z"), ("bayes.draws", 3), ("bayes.chains", 0), ("bayes.target_accept", 1.0),
        ("bayes.tune", 0), ("bayes.maxdepth", 0), ("priors", 1), ("priors.a", "Flat"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(ArgumentError, match=f"{key}.* is not valid; ") as caught:
        parse_study(changed(key, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "-"])
def test_a_set_of_priors_has_a_plain_name(name):
    with pytest.raises(ArgumentError, match="name a set of priors by letters"):
        parse_study(SMALLEST | {"priors": {name: {}}})


@pytest.mark.parametrize("text", ["HalfNormel(1)", "HalfNormal(1, 2)", "HalfNormal(-1)"])
def test_a_wrong_prior_is_named_with_its_set(text):
    with pytest.raises(PriorError, match=r"a.toml: \[priors.weak\] "):
        parse_study(SMALLEST | {"priors": {"weak": {"sd": text}}}, name="a.toml")


@pytest.mark.parametrize("content", [b"seed = ", b"\xff\xfe", b"seed = 1\nseed = 2\n"])
def test_a_file_that_is_no_toml(tmp_path, content):
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(ArgumentError, match=r"study\.toml: not valid TOML"):
        read_study(path)
    path.write_text("a = " + "[" * 5000)
    with pytest.raises(ArgumentError, match="nested too deeply"):
        read_study(path)


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "no.toml", tmp_path):
        with pytest.raises(ArgumentError, match="cannot be read"):
            read_study(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2), ("model.fixed.Intercept", 1e-12), ("model.fixed.x", 0.0),
        ("model.random", ["Intercept"]), ("model.correlated", False),
        ("model.residual_variance", 2.0), ("grid.groups", 6), ("grid.group_size", [[4, 5]]),
        ("grid.icc", 0.2000000000000001), ("grid.slope_variance", 0.1), ("reml.df", ["z"]),
        ("reml.variances", ["wald"]),
        ("bayes.draws", 501), ("bayes.tune", 501), ("bayes.chains", 3), ("bayes.maxdepth", 9),
        ("bayes.target_accept", 0.91), ("priors.a", {}),
    ],
)  # fmt: skip
def test_whatever_changes_a_replicate_changes_the_identity(key, value):
    assert identify_study(parse_study(changed(key, value))) != identify_study(parse_study(SMALLEST))


def test_priors_are_identified_by_every_digit():
    study = parse_study(SMALLEST)
    one, other = (
        identify_study(replace(study, priors=(("a", Priors(sd={"x": HalfNormal(scale)})),)))
        for scale in (1.0, 1.0 + 1e-15)
    )
    assert one != other


def test_title_and_number_of_replicates_are_no_part_of_the_identity():
    study = parse_study(SMALLEST)
    assert identify_study(replace(study, title="b", replicates=9)) == identify_study(study)
