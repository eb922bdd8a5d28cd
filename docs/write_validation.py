"""docs/validation.md: what is held to what, read from the references and tolerances of the tests.

    python docs/write_validation.py    # write the page

Names, versions, counts and printed values come from tests/reference and models, tolerances from the
constants of the test files. A test fails when the page says anything else than this script would.
"""

import ast
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "tests" / "reference"
PAGE = ROOT / "docs" / "validation.md"


def write_page() -> str:
    """Return the page."""
    parts = [
        "# What is held to what",
        "This page is written by `docs/write_validation.py` from the files that the tests compare "
        "against, and a test fails when it says anything else. None of the reference values was "
        "written by bhlm: they are printed by other programs and books, or come from 40-digit "
        "arithmetic.",
        tell_checks(),
        tell_exact(),
        tell_stata(),
        tell_lme4(),
        tell_levels(),
        tell_families(),
        tell_surveys(),
        tell_gallery(),
        tell_calibration(),
    ]
    return "\n\n".join(parts) + "\n"


def tell_checks() -> str:
    """Return the table of what is compared, and within what."""
    r = read_json("r/lme4_reference.json")["versions"]
    pools = read_json("imputations/pooled.json")["versions"]
    survey = read_json("survey/survey.json")
    rows = [
        ("estimates of four models, 40 digits", "arithmetic with a score below 1e-18",
         within("reml/test_estimate.py", "ESTIMATES")),
        ("their standard errors, by the observed information", "the same",
         within("reml/test_estimate.py", "ERRORS")),
        ("log-likelihoods of 37 models", f"lme4 {r['lme4']}, nlme {r['nlme']}",
         within("reml/test_lme4_reference.py", "BELOW", what="not more than {} below")),
        ("estimates of 37 models", f"lme4 {r['lme4']}, its optimum polished",
         within("reml/test_lme4_reference.py", "ESTIMATES")),
        ("Satterthwaite's degrees of freedom", f"lmerTest {r['lmerTest']}",
         within("reml/test_satterthwaite.py", "LMERTEST")),
        ("Kenward and Roger's covariances and df", f"pbkrtest {r['pbkrtest']}",
         within("reml/test_kenward_roger.py", "PBKRTEST")),
        ("cluster-robust CR0 and CR2", f"clubSandwich {r['clubSandwich']}",
         within("reml/test_robust.py", "CLUB_SANDWICH")),
        ("profile likelihood", "dense algebra", within("reml/test_profile.py", "DENSE")),
        ("nested and crossed factors: log-likelihoods", "lme4, as it prints them",
         within("reml/test_level_references.py", "LOGLIK")),
        ("nested and crossed factors: deviances", "MixedModels.jl, as it prints them",
         within("reml/test_level_references.py", "DEVIANCE")),
        ("pooling of plausible values", f"mitools {pools['mitools']}, mitml {pools['mitml']}",
         within("studies/test_imputations.py", "PRINTED")),
        ("meta-analysis", f"metafor {survey['metafor']}",
         within("reml/test_known_variance.py", "SAME")),
        ("residual variances by stratum", f"nlme {survey['nlme']}",
         within("reml/test_strata.py", "SAME")),
    ]  # fmt: skip
    return "## At a glance\n\n" + make_table(("what", "held to", "within"), rows)


def tell_exact() -> str:
    """Return the section of the four models in 40-digit arithmetic."""
    found = read_json("hsb_reml.json")
    rows = [
        (f"`{case['formula']}`", case["reml"]["loglik"], case.get("ml", {}).get("loglik", ""))
        for name, case in found.items()
        if name != "about"
    ]
    return f"## Chapter 4 in 40 digits\n\n{found['about']}\n\n" + make_table(
        ("model", "restricted log-likelihood", "log-likelihood"), rows
    )


def tell_stata() -> str:
    """Return the section of what Stata printed for Table 4.4."""
    found = tomllib.loads((REFERENCE / "stata_table_4_4.toml").read_text(encoding="utf-8"))
    rows = [
        (f"`{name}`", values["estimate"], values["se"], values["lower"], values["upper"])
        for name, values in found["estimates"].items()
    ]
    tolerance = within("reports/test_stata.py", "STOPPED_EARLY")
    return (
        f"## Table 4.4, as Stata prints it\n\n`{found['command']}`: {count_strings(found)} printed "
        f"values, held to their last digit or to {tolerance}, for Stata's optimiser stops before "
        "the maximum.\n\n" + make_table(("parameter", "estimate", "se", "lower", "upper"), rows)
    )


def tell_lme4() -> str:
    """Return the section of the models with one factor that R fitted."""
    found = read_json("r/lme4_reference.json")
    rows = [
        (name, f"`{case['formula']}`", f"{case['n']:,}", case["groups"],
         f"{case['reml']['logLik']:.6f}", "singular" if case["reml"]["singular"] else "")
        for name, case in found["models"].items()
    ]  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"## {len(rows)} models by R\n\nFitted by REML and by ML with {versions}. Beside estimates "
        "and their covariances the files hold degrees of freedom, robust errors, joint tests, "
        "effects of groups and profile intervals.\n\n"
        + make_table(("name", "model", "rows", "groups", "restricted log-likelihood", ""), rows)
    )


def tell_levels() -> str:
    """Return the section of several grouping factors."""
    rows = []
    for path in sorted((REFERENCE / "levels").glob("*.toml")):
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        source = found["published"]["source"].partition("; stored")[0]
        count = count_values(found["published"]) + count_values(found["computed"])
        rows.append((found["title"], source, count))
    return "## Several grouping factors\n\n" + make_table(("models", "printed by", "values"), rows)


def tell_families() -> str:
    """Return the section of responses that are not normal."""
    found = tomllib.loads((REFERENCE / "glmm.toml").read_text(encoding="utf-8"))
    rows = [
        (f"`{case['formula']}`", f"{case['loglik']:.8f}")
        for case in found["computed"].values()
        if isinstance(case, dict) and "formula" in case
    ]
    return (
        "## Zeros and ones, proportions\n\n"
        "Maxima by dense quadrature with 401 nodes in each group:\n\n"
        + make_table(("model", "log-likelihood"), rows)
        + f"\n\nAnd with the nodes of other programs: {found['published']['source']}."
    )


def tell_surveys() -> str:
    """Return the section of weights, known variances and imputations."""
    survey = read_json("survey/survey.json")
    pooled = read_json("imputations/pooled.json")
    cases = [name for name in survey if isinstance(survey[name], dict)]
    return (
        "## Known variances, strata, plausible values\n\n"
        f"metafor {survey['metafor']} and nlme {survey['nlme']} were asked for {len(cases)} models "
        f"({', '.join(cases)}). {len(pooled['betas'])} plausible values were fitted by lme4 "
        f"{pooled['versions']['lme4']} and pooled by "
        f"mitools {pooled['versions']['mitools']} and mitml "
        f"{pooled['versions']['mitml']}, joint tests by D1 and D2 among it."
    )


def tell_gallery() -> str:
    """Return the section of published models."""
    rows = []
    for path in sorted((ROOT / "models").glob("*.toml")):
        model = tomllib.loads(path.read_text(encoding="utf-8"))
        published = model.get("published", {})
        source = published.get("software") or published.get("source", "")
        rows.append((path.stem, f"`{model['formula']}`", source, count_strings(published)))
    return (
        "## The gallery\n\nPublished models that ship with bhlm, with what was printed of them. "
        "`bhlm reconcile NAME` fits one and compares.\n\n"
        + make_table(("name", "model", "printed by", "values"), rows)
    )


def tell_calibration() -> str:
    """Return the section of the sampler's calibration, as its script printed it."""
    text = (ROOT / "comparisons" / "results" / "calibration.txt").read_text(encoding="utf-8")
    return (
        "## The sampler\n\nThe posterior is held to quadrature, to importance sampling and to "
        "PyMC's density in the tests. Simulation-based calibration asks of the sampler as a whole "
        "whether true values are anywhere in their posteriors with equal chances; "
        "`comparisons/calibration.py` prints:\n\n"
        f"```text\n{text.rstrip()}\n```"
    )


def read_json(path: str) -> Any:
    """Return a reference file."""
    return json.loads((REFERENCE / path).read_text(encoding="utf-8"))


def within(path: str, name: str, *, what: str = "{}") -> str:
    """Return the tolerance that a test file calls by a name, as it is written there.

    Raises:
        ValueError: the file has no such constant.
    """
    for node in ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return what.format(f"{ast.literal_eval(node.value):g}")
    raise ValueError(f"tests/{path} has no constant {name}")


def count_strings(found: Any) -> int:
    """Return how many printed numbers a mapping holds, at any depth."""
    if isinstance(found, dict):
        return sum(count_strings(value) for value in found.values())
    if isinstance(found, list):
        return sum(count_strings(value) for value in found)
    return int(isinstance(found, str) and is_number(found))


def count_values(found: Any) -> int:
    """Return how many numbers a mapping holds, printed or not."""
    if isinstance(found, dict):
        return sum(count_values(value) for value in found.values())
    return int(isinstance(found, int | float)) or count_strings(found)


def is_number(text: str) -> bool:
    """Whether a printed value is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def make_table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return a Markdown table; a bar in a cell is escaped."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
    sys.exit(0)
