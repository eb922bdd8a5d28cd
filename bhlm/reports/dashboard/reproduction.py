"""The last section: what it takes to get the same numbers again."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from bhlm.bayes.independent import LARGE
from bhlm.bayes.priors.families import PyMCPrior, TextPrior
from bhlm.bayes.storage.description import hash_moments
from bhlm.layout import agree
from bhlm.likelihood.covariance import Structure
from bhlm.moments.patterns import Patterns
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.maximum import LABEL, FamilyMaximum
from bhlm.reml.sandwich import CONVENTIONS
from bhlm.reports.dashboard.blocks import Block, Section, Subject, Table, Text
from bhlm.reports.dashboard.choices import count_groups, find_default, is_moved
from bhlm.reports.dashboard.command_line import write_command
from bhlm.reports.dashboard.verdict import find_moments

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.draws import Posterior
    from bhlm.design.formula.weights import Weights
    from bhlm.moments.cells import CellMoments
    from bhlm.moments.level_patterns import AnyPatterns
    from bhlm.moments.moments import Moments

PACKAGES = (
    *("bhlm", "pymc", "pytensor", "nutpie", "arviz", "numpy", "scipy", "numba", "pandas"),
    *("narwhals", "plotly"),
)


def build_reproduction(subject: Subject) -> Section:
    """Return settings, versions, the data's hash, the priors, and the lines that run it again."""
    moments = find_moments(subject)
    blocks: list[Block] = [_tabulate_settings(subject, moments)]
    if subject.post is not None:
        blocks.append(tabulate_priors(subject.post))
    blocks.append(tabulate_versions())
    lines, notes = write_lines(subject, moments)
    if command := write_command(subject):
        blocks.append(Text((command,), heading="The command", code=True))
    blocks.append(Text(lines, heading="In Python", code=True))
    if notes:
        blocks.append(Text(notes, tone="caution"))
    return Section("reproduction", "Reproduction", tuple(blocks))


def _tabulate_settings(subject: Subject, moments: "Moments") -> Table:
    digest = hash_moments(moments)
    rows: dict[str, object] = {
        "formula": moments.formula,
        "rows": moments.n_rows,
        "groups": moments.n_groups,
        "rows dropped": moments.dropped,
        "SHA-256 of the moments": digest,
    }
    reading = f"The moments of the {moments.n_rows:,} rows have the SHA-256 {digest[:12]}…"
    if subject.reml is not None:
        rows |= {
            "likelihood": subject.reml.method,
            "covariance": subject.reml.structure.kind,
            "log-likelihood": subject.reml.loglik,
        }
    post = subject.post
    if post is not None:
        rows |= _list_run(post)
        reading += _say_repeatable(post)
    return Table(
        "settings", "Data and settings", f"{reading}.", frame_values(rows, "setting"), digits=10
    )


def tabulate_level_settings(subject: Subject, moments: "CellMoments") -> Table:
    """Return the table of data and settings of several grouping factors."""
    digest = hash_moments(moments)
    levels = {f"levels of {name}": number for name, number in moments.groups.items()}
    rows: dict[str, object] = {"formula": moments.formula, "rows": moments.n_rows, **levels}
    rows |= {"rows dropped": moments.dropped, "SHA-256 of the moments": digest}
    reading = f"The moments of the {moments.n_rows:,} rows have the SHA-256 {digest[:12]}…"
    if subject.levels is not None:
        rows |= {"likelihood": subject.levels.method, "log-likelihood": subject.levels.loglik}
    if subject.level_post is not None:
        rows |= _list_run(subject.level_post)
        reading += _say_repeatable(subject.level_post)
    return Table(
        "settings", "Data and settings", f"{reading}.", frame_values(rows, "setting"), digits=10
    )


def tabulate_family_settings(subject: Subject) -> Table:
    """Return the table of data and settings of zeros and ones, proportions or counts."""
    ml, post = subject.counted, subject.counted_post
    patterns = _find_patterns(subject)
    digest = hash_moments(patterns)
    sizes: dict[str, object] = (
        {"groups": patterns.n_groups}
        if isinstance(patterns, Patterns)
        else {f"levels of {name}": number for name, number in patterns.groups.items()}
    )
    rows: dict[str, object] = {
        "formula": patterns.formula,
        "family": patterns.family.name,
        "link": patterns.family.link,
        "rows": patterns.n_rows,
        **sizes,
        "patterns": patterns.n_patterns,
        "rows dropped": patterns.dropped,
        "SHA-256 of the patterns": digest,
    }
    reading = f"The patterns of the {patterns.n_rows:,} rows have the SHA-256 {digest[:12]}…"
    if ml is not None:
        kinds = dict.fromkeys(part.structure.kind for part in ml.parts)
        rows |= {
            "likelihood": f"{ml.method}, {ml.label}" if ml.label == LABEL else ml.method,
            "covariance": ", ".join(kinds),
            "log-likelihood": ml.loglik,
            "its error": ml.error,
            "nodes of a fixed rule": ml.nagq,
        }
        if isinstance(ml, FamilyEstimate):
            rows["nodes in all"] = ml.nodes
    if post is not None:
        rows |= _list_run(post) | {"error of the log-likelihood over draws": post.error}
        reading += _say_repeatable(post)
    return Table(
        "settings", "Data and settings", f"{reading}.", frame_values(rows, "setting"), digits=10
    )


def _find_patterns(subject: Subject) -> "AnyPatterns":
    fit = subject.counted if subject.counted is not None else subject.counted_post
    assert fit is not None
    return fit.moments


def _list_run(post: "Posterior") -> dict[str, object]:
    """Return how a posterior was drawn."""
    chosen, certificate = post.settings, post.diagnostics.certificate
    if certificate is None:
        made: dict[str, object] = {
            "warm-up per chain": chosen.tune,
            "target acceptance": chosen.target_accept,
            "largest tree depth": chosen.maxdepth,
            "prior only": chosen.prior_only,
        }
    else:
        made = {
            "k-hat": certificate.khat,
            "effective draws": certificate.effective,
            "distinct draws": certificate.distinct,
            "evaluations": certificate.evaluations,
        }
    return {
        "seed": post.seed,
        "chains": chosen.chains,
        "draws per chain": chosen.draws,
        **made,
        "sampler": post.sampler,
        "seconds": post.seconds,
    }


def _say_repeatable(post: "Posterior") -> str:
    chosen = post.settings
    return (
        f", and seed {post.seed} gives the same {chosen.chains} x {chosen.draws} draws on the "
        "versions below, bit for bit"
    )


def tabulate_priors(fit: "Posterior") -> Table:
    """Return the table of the priors."""
    texts = fit.priors.describe(fit.moments, structure=fit.structure)
    default = find_default(fit)
    chosen = [at for at, pair in enumerate(default) if str(pair[0]) != str(pair[1])]
    kind = (
        "All are the defaults, scaled by the SDs of the columns"
        if not chosen
        else f"{len(chosen)} of {len(default)} {agree(len(chosen), 'was', 'were')} chosen and the "
        "others are the defaults, scaled by the SDs of the columns"
        if len(chosen) < len(default)
        else "All were chosen for this model"
    )
    frame = frame_values(texts, "parameter", value="prior")
    return Table("priors", "Priors", f"{kind}.", frame, digits=10)


def tabulate_versions() -> Table:
    """Return the table of the versions that the numbers come from."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    reading = (
        f"bhlm {versions['bhlm']} ran on Python {versions['python']} with NumPy "
        f"{versions['numpy']} and SciPy {versions['scipy']}."
    )
    return Table(
        "versions",
        "Versions",
        reading,
        frame_values(versions, "package", value="version"),
        digits=10,
    )


def frame_values(rows: Mapping[str, object], name: str, *, value: str = "value") -> "pd.DataFrame":
    """Return values by name as a table."""
    import pandas as pd

    return pd.DataFrame({value: pd.Series(rows, dtype=object)}).rename_axis(name)


def write_lines(subject: Subject, moments: "Moments") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the Python lines that run the analysis again, and what they cannot repeat."""
    reml, post = subject.reml, subject.post
    notes: list[str] = []
    lines = ["import bhlm", ""]
    of_rows = "" if moments.weights is None else f", {write_weights(moments.weights)}"
    lines.append(f"model = bhlm.Model({moments.formula!r}, data{of_rows})  # data: the table")
    override = _find_structure(subject).name_override
    kind = [] if override is None else [f"covariance={override!r}"]
    if reml is not None:
        if reml.errors_code:
            lines.append(f"replicates = {reml.errors_code}")
        given = [] if reml.method == "reml" else [f"method={reml.method!r}"]
        given += [] if reml.errors == "model" else [write_errors(reml.errors)]
        lines.append(f"reml = model.reml({', '.join([*given, *kind])})")
    if post is not None:
        priors, notes = _write_priors(post)
        lines += _write_sample(post, [*kind, *priors])
    if subject.both is not None:
        lines += ["both = bhlm.reconcile(reml, post)", 'both.dashboard("report.html", model=model)']
    return tuple(lines), tuple(notes)


def write_errors(errors: str) -> str:
    """Return the argument of `reml` for standard errors."""
    if errors in CONVENTIONS:
        return f"errors={errors!r}"
    return "errors=replicates"


def write_weights(weights: "Weights") -> str:
    """Return the argument of `Model` for weights, known variances or strata."""
    if weights.strata:
        return f"residual={weights.rows!r}"
    if weights.holds_sigma:
        return f"known_variance={weights.rows!r}"
    given = f"{weights.rows!r}"
    if weights.is_sampling:
        groups = dict(weights.factors) or weights.groups
        given = f"rows={weights.rows!r}, groups={groups!r}, scaling={weights.scaling!r}"
    return f"weights=bhlm.{type(weights).__name__}({given})"


def write_level_lines(
    subject: Subject, moments: "CellMoments"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the Python lines that fit several factors again, and what they cannot repeat."""
    of_rows = "" if moments.weights is None else f", {write_weights(moments.weights)}"
    lines = ["import bhlm", f"model = bhlm.Model({moments.formula!r}, table{of_rows})"]
    name = "fit" if subject.level_post is None else "reml"
    if (levels := subject.levels) is not None:
        if levels.errors_code:
            lines.append(f"replicates = {levels.errors_code}")
        by = "" if levels.errors == "model" else f", {write_errors(levels.errors)}"
        lines.append(f"{name} = model.reml(method={levels.method!r}{by})")
    post, notes = subject.level_post, list[str]()
    if post is not None:
        lines += _write_sample(post, [])
        if any(chosen != usual for chosen, usual in find_default(post)):
            notes.append("Priors were chosen: give those of the table as bhlm.Priors(...).")
    if subject.both is not None:
        lines += ["both = bhlm.reconcile(reml, post)", 'both.dashboard("report.html")']
    return tuple(lines), tuple(notes)


def write_family_lines(subject: Subject) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the Python lines that fit a family again, and what they cannot repeat."""
    ml, post = subject.counted, subject.counted_post
    patterns = _find_patterns(subject)
    formula, family = str(patterns.design.formula), patterns.family
    lines = [
        "import bhlm",
        "",
        "model = bhlm.Model(",
        f"    {formula!r},",
        "    data,  # the table",
        f"    family={family.name!r},",
        f"    link={family.link!r},",
        ")",
    ]
    notes = list[str]()
    fit = ml if ml is not None else post
    assert fit is not None
    structure = fit.parts[0].structure if isinstance(fit, FamilyMaximum) else fit.structure
    override = structure.name_override
    kind = [] if override is None else [f"covariance={override!r}"]
    if ml is not None:
        given = [] if ml.nagq is None else [f"nagq={ml.nagq}"]
        lines.append(f"fit = model.ml({', '.join([*kind, *given])})")
    if post is not None:
        lines += _write_sample(post, kind)
        if any(chosen != usual for chosen, usual in find_default(post)):
            notes.append("Priors were chosen: give those of the table as bhlm.Priors(...).")
    if subject.both is not None:
        lines += ["both = bhlm.reconcile(fit, post)", 'both.dashboard("report.html")']
    return tuple(lines), tuple(notes)


def _write_sample(post: "Posterior", more: Sequence[str]) -> list[str]:
    """Return the lines that sample as a posterior was, with further arguments."""
    chosen = post.settings
    given = [f"seed={post.seed}", f"draws={chosen.draws}"]
    if post.diagnostics.certificate is not None:
        given += [f"chains={chosen.chains}", "method='independent'"]
    else:
        given += [f"tune={chosen.tune}", f"chains={chosen.chains}"]
        given += [f"target_accept={chosen.target_accept!r}", f"maxdepth={chosen.maxdepth}"]
        given += ["prior_only=True"] if chosen.prior_only else []
        # Many groups are drawn independently where nobody says otherwise.
        given += ["method='nuts'"] if count_groups(post) >= LARGE else []
    adjustment = getattr(post, "adjustment", None)
    given += ["adjust=False"] if adjustment and adjustment.failure == "adjust=False" else []
    return ["post = model.sample(", *(f"    {part}," for part in [*given, *more]), ")"]


def _find_structure(subject: Subject) -> Structure:
    fit = subject.reml or subject.post
    assert fit is not None
    return fit.structure


def _write_priors(fit: "Posterior") -> tuple[list[str], list[str]]:
    """Return the argument for the priors, none for the defaults, and what has no text."""
    pairs = find_default(fit)
    if all(chosen == default for chosen, default in pairs) and not is_moved(fit):
        return [], []
    if fit.priors.is_flat:
        return ["priors=bhlm.Priors.flat()"], []
    notes = [
        f"The prior {prior} is a PyMC distribution: it stands here by name and has to be written "
        "out again."
        for prior, _ in pairs
        if isinstance(prior, PyMCPrior | TextPrior)
    ]
    scales = [parameter.row for parameter in fit.structure.sds]
    p, s = len(fit.moments.fixed), len(scales)
    given = [
        f"{key}={{{entries}}}"
        for key, names, part in (
            ("fixed", fit.moments.fixed, pairs[:p]),
            ("sd", scales, pairs[p : p + s]),
        )
        if (entries := _write_entries(names, part))
    ]
    sigma, default = pairs[p + s]
    given += [f"sigma={_write_prior(sigma)}"] if sigma != default else []
    for chosen, usual in pairs[p + s + 1 :]:
        given += [f"corr={_write_prior(chosen)}"] if chosen != usual else []
    given += ["at='zero'"] if is_moved(fit) else []
    return [f"priors=bhlm.Priors({', '.join(given)})"], notes


def _write_entries(names: Sequence[str], pairs: Sequence[tuple[Any, Any]]) -> str:
    return ", ".join(
        f"{name!r}: {_write_prior(prior)}"
        for name, (prior, default) in zip(names, pairs, strict=True)
        if prior != default
    )


def _write_prior(prior: Any) -> str:
    if isinstance(prior, PyMCPrior | TextPrior):
        return "..."
    numbers = {field.name: float(getattr(prior, field.name)) for field in fields(prior)}
    arguments = ", ".join(f"{name}={number!r}" for name, number in numbers.items())
    return f"bhlm.{type(prior).__name__}({arguments})"
