"""models and compare: the published models, and one table of both fits of each."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from bhlm.commands.options import Json, Quiet, Seed, app
from bhlm.commands.shared import check_outputs, find_data, fit_both, write_all
from bhlm.errors import ArgumentError
from bhlm.progress import VOICE

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.fits.reconciliation import Reconciliation
    from bhlm.moments.either import Reduced
    from bhlm.sources.gallery import GalleryModel

COLUMNS = (
    *("n", "groups", "loglik", "gap_sd", "gap_parameter", "verdict"),
    *("reproduced", "printed", "comparable", "seconds"),
)


@app.command("models")
def models_command(json: Json = None, quiet: Quiet = False) -> int:
    """List the gallery of published models."""
    from bhlm.files import write_json
    from bhlm.sources.gallery import list_models

    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(json=json)
    models = list_models()
    listed = "\n".join(f"{each.name}\n    {each.title}\n    {each.formula}" for each in models)
    writers: list[Callable[[], object]] = [lambda: print(listed)]
    if json:
        keys = ("name", "title", "citation", "formula", "method")
        told = [{key: getattr(entry, key) for key in keys} for entry in models]
        writers.append(lambda: write_json(told, json))
    write_all(*writers)
    return 0


@app.command("compare")
def compare_command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Gallery models; default: all.")
    ] = None,
    seed: Seed = 1,
    json: Json = None,
    quiet: Quiet = False,
) -> int:
    """Reconcile the published models of the gallery with one grouping column: one table.

    Those with weights, known variances, strata or plausible values are left out; bhlm reconcile
    takes them one by one.
    """
    from bhlm.files import write_json
    from bhlm.progress import show_progress

    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(*(names or ()), json=json)
    with show_progress("gallery") as progress:
        table = compare_gallery(names, seed=seed, progress=progress)
    writers: list[Callable[[], object]] = [lambda: print(render_gallery(table))]
    if json:
        writers.append(lambda: write_json(table.to_dict(orient="index"), json))
    write_all(*writers)
    return 0 if table["verdict"].isin(["agree", "explained"]).all() else 1


def compare_gallery(
    names: Sequence[str] | None = None,
    *,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> "pd.DataFrame":
    """Return one row per gallery model: both fits, their largest gap, the prints reproduced.

    Columns, by model: `n`, `groups`; `loglik`, restricted; `gap_sd`, the largest difference of a
    posterior mean from the REML estimate in posterior SDs, signed, and `gap_parameter`, whose it
    is; `verdict`; `reproduced` of `printed` values, and `comparable`, False where the print comes
    from other columns and is not judged; `seconds` of both fits with the reconciliation.

    Args:
        names: models by name or path; None takes all of the gallery with one grouping column.
        seed: of the sampler, the same for every model.
        progress: called with the models done and their number.

    Raises:
        ArgumentError: no names.
        GalleryError: a name that is not in the gallery.
    """
    import pandas as pd

    from bhlm.design.formula.terms import parse_formula
    from bhlm.fits.model import Model
    from bhlm.sources.gallery import find_model, list_models

    whole = (
        each
        for each in list_models()
        if each.is_gaussian and each.is_plain and not parse_formula(each.formula).has_levels
    )
    entries = tuple(whole) if names is None else tuple(find_model(name) for name in names)
    if not entries:
        raise ArgumentError("no models to compare; name some (bhlm models lists them), or None")
    rows = []
    for done, entry in enumerate(entries):
        if progress:
            progress(done, len(entries))
        start = time.perf_counter()
        if not entry.is_plain:
            raise ArgumentError(
                f"'{entry.name}' has weights, known variances, strata or plausible values, which "
                "the table has no columns for; bhlm reconcile takes it"
            )
        model = Model(entry.formula, find_data(entry))
        both = fit_both(model, entry, {"seed": seed}, method=entry.method, quiet=True)
        rows.append(_summarize(both, entry) | {"seconds": time.perf_counter() - start})
    if progress:
        progress(len(entries), len(entries))
    index = pd.Index([entry.name for entry in entries], name="model")
    return pd.DataFrame(rows, index, list(COLUMNS))


def render_gallery(table: "pd.DataFrame") -> str:
    """Return the table of `compare_gallery` as text, with the verdicts counted below."""
    width = max(len("model"), *(len(str(name)) for name in table.index))
    lines = [
        f"{'model':<{width}} {'n':>6} {'J':>5} {'REML loglik':>13}  {'verdict':<13} "
        f"{'printed':>7} {'seconds':>7}  largest gap, in posterior SDs"
    ]
    for name, row in table.iterrows():
        printed = f"{row['reproduced']}/{row['printed']}" if row["printed"] else "-"
        lines.append(
            f"{name:<{width}} {row['n']:>6} {row['groups']:>5} {row['loglik']:>13.4f}  "
            f"{row['verdict']:<13} {printed + ('' if row['comparable'] else '*'):>7} "
            f"{row['seconds']:>7.1f}  {row['gap_sd']:+.2f} {row['gap_parameter']}"
        )
    lines.append("")
    counts = table["verdict"].value_counts()
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    lines.append(f"{len(table)} models: {said}.")
    lines.append("printed: values that were published and are reproduced, of those published.")
    if not table["comparable"].all():
        lines.append("* printed for other columns than the formula's: shown, not judged.")
    return "\n".join(lines)


def _count_groups(moments: "Reduced") -> int:
    """Return the groups, of several factors those of the one that has the most."""
    from bhlm.moments.moments import Moments
    from bhlm.moments.patterns import Patterns

    if isinstance(moments, Moments | Patterns):
        return moments.n_groups
    return max(moments.groups.values())


def _summarize(both: "Reconciliation", entry: "GalleryModel") -> dict[str, object]:
    gaps = both.table["gap_sd"].dropna()
    worst = gaps.abs().idxmax()
    moments = both.reml.moments
    return {
        "n": moments.n_rows,
        "groups": _count_groups(moments),
        "loglik": both.reml.loglik,
        "gap_sd": float(gaps[worst]),
        "gap_parameter": str(worst),
        "verdict": both.verdict,
        "reproduced": sum(check.reproduced for check in both.printed),
        "printed": len(both.printed),
        "comparable": entry.published is None or entry.published.comparable,
    }
