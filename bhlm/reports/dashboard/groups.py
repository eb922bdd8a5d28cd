"""The page of the groups: their effects, a chooser of one group at a time, a table of all."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import HELD, Draws
from bhlm.layout import count, name_unit
from bhlm.moments.moments import Moments
from bhlm.plots.group_lines import LINES, GroupRows, find_bands, take_rows
from bhlm.plots.groups import (
    count_draws,
    draw_lines,
    find_column,
    find_held,
    join_effects,
    list_columns,
    mean_beta,
    name_groups,
    thin_posterior,
)
from bhlm.plots.ranked_effects import draw_caterpillar
from bhlm.plots.shrinkage import draw_shrinkage
from bhlm.plots.style import shorten
from bhlm.reports.dashboard.blocks import Block, Chooser, Section, Subject, Table, Text

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

NUMBERS = 150_000  # that the chooser holds, about
TABLE = 1000  # groups that the table lists
ROWS = 200  # of one group that the chooser holds
GRID = 7  # points of each group's band, between which it is drawn smoothly
# Columns that are shown to the digits of the effect's interval.
SIZED = ("expected", "OLS", "EB", "EB SE", "posterior mean", "u", "u 2.5 %", "u 97.5 %")
DIGITS = 5  # significant ones of slopes, and of the range of an axis


def build_groups(subject: Subject, *, listed: int = TABLE, held: int = HELD) -> Section:
    """Return the page of the groups: caterpillar, shrinkage, one group at a time, a table of all.

    Args:
        subject: the fits, and the model if its rows are to be drawn.
        listed: groups that the table lists.
        held: numbers of random effects up to which the page rests on all draws.
    """
    reml, whole = subject.reml, subject.post
    post = None if whole is None else thin_posterior(whole, held=held)
    given = reml if reml is not None else post
    assert given is not None
    moments = given.moments
    effects = join_effects(reml, post)
    blocks: list[Block] = [
        draw_caterpillar(moments, effects, moments.random, posterior=post is not None)
    ]
    if reml is not None:
        blocks.append(draw_shrinkage(moments, effects))
    content = describe_groups_of(subject, effects, post=post)
    blocks.append(
        Chooser(
            "group",
            f"One {shorten(moments.group)} at a time",
            _read_chooser(content),
            content,
        )
    )
    blocks.append(_build_table(moments, effects, posterior=post is not None, most=listed))
    if whole is not None and post is not None and post is not whole:
        what = "The posterior effects of the groups"
        blocks.append(Text((describe_thinning(whole, post, what),)))
    return Section("groups", "Groups", tuple(blocks))


def describe_thinning(whole: Draws, kept: Draws, what: str) -> str:
    """Return how many draws something rests on, in a sentence.

    Args:
        whole: the fit with all draws.
        kept: the fit with some of them.
        what: the beginning of the sentence.
    """
    every, some = map(count_draws, (whole, kept))
    return (
        f"{what} rest here on {some:,} of the {every:,} draws, evenly spaced, since there are "
        f"{count(whole.moments.n_groups, 'group')}."
    )


def _read_chooser(content: dict[str, Any]) -> str:
    """Return what can be chosen, in a sentence."""
    label = content["groups"][content["start"]]
    return (
        f"{count(len(content['groups']), 'group')} can be chosen; the first shown is "
        f"{name_unit(content['group'], label)}, whose effects are furthest from 0."
    )


def _build_table(moments: Moments, effects: "pd.DataFrame", *, posterior: bool, most: int) -> Table:
    """Return one row per group and coefficient, with the columns that the fits give."""
    import pandas as pd

    q = len(moments.random)
    listed, score = _list_groups(effects, q, most=most, spread=False)
    # The furthest first where not all are there, else in the order of the data.
    order = listed if len(listed) == moments.n_groups else listed[np.argsort(-score[listed])]
    rows = effects.iloc[(order[:, None] * q + np.arange(q)).ravel()]
    center = rows["fixed"] if rows["fixed"].notna().any() else rows["post_fixed"]
    frame = pd.DataFrame({"coefficient": rows["coefficient"], "n": rows["n"]})
    for title, values in (
        ("expected", center),
        ("OLS", rows["ols"]),
        ("EB", rows["eb"]),
        ("EB SE", rows["u_se"]),
        ("posterior mean", rows["post_fixed"] + rows["mean"]),
        ("u", rows["mean"] if posterior else rows["u"]),
        ("u 2.5 %", rows["low"] if posterior else rows["u_low"]),
        ("u 97.5 %", rows["high"] if posterior else rows["u_high"]),
        ("reliability", rows["reliability"]),
    ):
        if values.notna().any():
            frame[title] = values
    name = "group" if moments.group in frame else moments.group
    frame.insert(0, name, rows["group"].astype(str))
    clear = int(((frame["u 2.5 %"] > 0.0) | (frame["u 97.5 %"] < 0.0)).sum())
    kind = "posterior" if posterior else "empirical-Bayes"
    text = (
        "Effect is the deviation from what is expected of the group: of "
        f"{count(len(frame), f'{kind} interval')} (95 %) {clear or 'none'} "
        f"{'excludes' if clear == 1 else 'exclude'} 0"
    )
    if len(order) < moments.n_groups:
        text += (
            f"; listed are the {len(order):,} groups of {moments.n_groups:,} that are furthest "
            "from what the model expects of them"
        )
    missing = int(np.sum(~np.isfinite(effects["ols"].to_numpy().reshape(-1, q)).all(axis=1)))
    if "OLS" in frame and missing:
        text += f"; {count(missing, 'group')} without full rank {'has' if missing == 1 else 'have'}"
        text += " no least squares"
    frame = frame.reset_index(drop=True)
    return Table(
        "groups", "Coefficients of the groups", text + ".", frame,
        sizes=measure_effects(frame, frame["u 97.5 %"] - frame["u 2.5 %"]), sized=SIZED,
    )  # fmt: skip


def measure_effects(frame: "pd.DataFrame", width: "pd.Series[float]") -> tuple[float, ...]:
    """Return about the median SE of each row's coefficient, to whose digits it is shown.

    Args:
        frame: with a column `coefficient`.
        width: of each row's 95 % interval.
    """
    return tuple((0.25 * width.groupby(frame["coefficient"]).transform("median")).tolist())


def describe_chooser(
    subject: Subject, *, numbers: int = NUMBERS, rows: int = ROWS
) -> dict[str, Any]:
    """Return what a page draws one group at a time from, as plain lists and numbers for JSON.

    nan stands as None. With J the number of groups listed, the keys are

        group       name of the grouping column
        groups      J labels as texts of at most 60 characters, all different, in the order of the
                    data; to be shown as text, since they may hold markup
        n           J numbers of rows
        start       the group to show first: the one furthest from what the model expects of it
        x           {"label", "kind", "origin", "range": [low, high]} of the horizontal axis. kind
                    is "column" (a column of the model that varies within groups, the first random
                    slope if there is one) or "row" (the row's number within its group, from 1 on,
                    where no column varies; all lines are then level)
        y           {"label", "range": [low, high]} of the vertical axis, the same for every group
        lines       a list of {"key", "role", "name", "at", "slope"}, in the order in which they
                    are to be drawn. key: "population", "ols", "eb", "posterior" (only those that
                    the fits give); role: a key of `style.ROLES`; name: for the legend; at and
                    slope: J numbers each, or one number that holds for every group. The line is
                    y = at + slope * (x - x["origin"]), with the other columns of the model at
                    their means in the group; None for both where the group has no such line. It is
                    to be drawn from the smallest to the largest x of the group's rows, or over
                    x["range"] if there are no rows or all have one x
        rows        {"x": J lists, "y": J lists}, each group's rows by x, the one with the smallest
                    and the one with the largest x always among them; or None where no rows are at
                    hand, or the page is to hold none
        band        {"x": m numbers, "low": J lists of m, "high": J lists of m}, the pointwise 95 %
                    interval of the posterior's line; None without a posterior
        reliability {coefficient: J numbers between 0 and 1, None where the group has no least
                    squares}; {} without a REML fit
        note        a sentence on what is thinned, held or missing; may be empty

    At most 200 rows of a group and about 150,000 numbers beside the bands are given: of many rows
    some that are evenly spread over x, of very many groups those with the furthest effects and
    some that are evenly spread over the others.

    Args:
        subject: the fits, and the model if its rows are to be drawn.
        numbers: that are given, about.
        rows: of one group that are given.
    """
    post = None if subject.post is None else thin_posterior(subject.post)
    effects = join_effects(subject.reml, post)
    return describe_groups_of(subject, effects, post=post, numbers=numbers, most_rows=rows)


def describe_groups_of(
    subject: Subject,
    effects: "pd.DataFrame",
    *,
    post: Draws | None,
    numbers: int = NUMBERS,
    most_rows: int = ROWS,
) -> dict[str, Any]:
    """Return `describe_chooser` of effects that are known already.

    Args:
        subject: the fits, and the model if its rows are to be drawn.
        effects: what `join_effects` returns.
        post: the draws that the effects rest on.
        numbers: that are given, about.
        most_rows: of one group that are given.
    """
    given = subject.reml if subject.reml is not None else subject.post
    assert given is not None
    moments = given.moments
    beta = {}
    if subject.reml is not None:
        beta["reml"] = subject.reml.beta
    if subject.post is not None:
        beta["posterior"] = mean_beta(subject.post)
    column = find_column(moments)
    rows = take_rows(subject.model, moments, column) if subject.rows else None
    x_range = _find_range(moments, column, rows)
    origin = 0.0
    if column is not None and not x_range[0] <= 0.0 <= x_range[1]:
        origin = float(f"{0.5 * (x_range[0] + x_range[1]):.{DIGITS}g}")
    lines = draw_lines(moments, effects, beta, origin=origin)
    y_range = _find_heights(moments, rows)
    q = len(moments.random)
    reliable = effects["reliability"].to_numpy().reshape(-1, q)
    per_group = 1 + 2 * len(lines.at) + (q if subject.reml is not None else 0)
    listed, score = _list_groups(effects, q, most=numbers // (per_group + 4))
    spread = (numbers - per_group * len(listed)) // 2
    points, shown = (
        (None, 0)
        if rows is None
        else _thin_rows(rows, listed, x_range, y_range, most=spread, per_group=most_rows)
    )
    return {
        "group": shorten(moments.group),
        "groups": _tell_apart([shorten(name) for name in name_groups(moments.groups[listed])]),
        "n": moments.n[listed].astype(int).tolist(),
        "start": int(np.argmax(score[listed])),
        "x": {
            "label": shorten(column if column is not None else f"row within {moments.group}"),
            "kind": "row" if column is None else "column",
            "origin": origin,
            "range": _round_to(np.array(x_range), _decimals(x_range)),
        },
        "y": {
            "label": shorten(moments.response),
            "range": _round_to(np.array(y_range), _decimals(y_range)),
        },
        "lines": [
            {
                "key": key,
                "role": role,
                "name": name,
                "at": _share(_round_to(lines.at[key][listed], _decimals(y_range))),
                "slope": _share(_round_digits(lines.slope[key][listed])),
            }
            for key, role, name in LINES
            if key in lines.at
        ],
        "rows": points,
        "band": None if post is None else _list_bands(post, listed, column, x_range, y_range),
        "reliability": {
            shorten(name): _round_digits(reliable[listed, k], digits=3)
            for k, name in enumerate(moments.random)
        }
        if subject.reml is not None
        else {},
        "note": _write_note(subject, moments, listed, rows, shown),
    }


def _list_bands(
    post: Draws,
    listed: Array,
    column: str | None,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> dict[str, list[Any]]:
    """Return the band of each group listed at a few points over the axis."""
    x = np.array(_round_to(np.linspace(*x_range, GRID), _decimals(x_range)), dtype=float)
    low, high = find_bands(post, listed, column, x)
    decimals = _decimals(y_range)
    return {
        "x": x.tolist(),
        "low": [_round_to(each, decimals) for each in low],
        "high": [_round_to(each, decimals) for each in high],
    }


def _find_range(
    moments: Moments, column: str | None, rows: GroupRows | None
) -> tuple[float, float]:
    """Return the smallest and largest x, without rows two SDs about the groups' means."""
    if rows is not None:
        return _widen(float(rows.x.min()), float(rows.x.max()))
    if column is None:
        return _widen(1.0, float(moments.n.max()))
    return _about_means(moments, moments.columns.index(column))


def _find_heights(moments: Moments, rows: GroupRows | None) -> tuple[float, float]:
    """Return the range of y."""
    if rows is not None:
        return _widen(float(rows.y.min()), float(rows.y.max()))
    return _about_means(moments, len(moments.columns) - 1)


def _about_means(moments: Moments, i: int) -> tuple[float, float]:
    mean = moments.mean[:, i]
    # Cross-products of weighted rows add up to the sum of the weights in place of their number.
    spread = np.maximum(moments.cross[:, i, i], 0.0) / moments.mass
    sd = np.sqrt(spread * moments.n / np.maximum(moments.n - 1.0, 1.0))
    return _widen(float(np.min(mean - 2.0 * sd)), float(np.max(mean + 2.0 * sd)))


def _widen(low: float, high: float) -> tuple[float, float]:
    """Return a range with a twentieth more at either end, and of more than one point."""
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def _list_groups(
    effects: "pd.DataFrame", q: int, *, most: int, spread: bool = True
) -> tuple[Array, Array]:
    """Return the groups to list (L,), in their order, and how far each one (J,) is off.

    Args:
        effects: what `join_effects` returns.
        q: the number of random coefficients.
        most: how many groups to list.
        spread: whether most of them are an even choice of all, not the furthest alone.
    """
    u = effects["u"] if effects["mean"].isna().all() else effects["mean"]
    u = u.to_numpy().reshape(-1, q)
    size = np.sqrt(np.mean(u**2, axis=0))
    score = np.sum((u / np.where(size > 0.0, size, 1.0)) ** 2, axis=1)
    if len(score) <= most:
        return np.arange(len(score)), score
    ranks = np.argsort(-score, kind="stable")
    ends = most // 10 if spread else most
    inner = np.linspace(ends, len(score) - 1, most - ends).round().astype(int)
    return np.sort(ranks[np.unique(np.concatenate([np.arange(ends), inner]))]), score


def _thin_rows(
    rows: GroupRows,
    listed: Array,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    most: int,
    per_group: int,
) -> tuple[dict[str, list[list[float | None]]], int]:
    """Return the rows of the groups listed, at most about `most` in all, and how many they are."""
    at, x, y = rows.at, rows.x, rows.y
    order = np.lexsort((x, at))
    start = np.searchsorted(at[order], listed, side="left")
    size = np.searchsorted(at[order], listed, side="right") - start
    cap = per_group
    while cap > 2 and np.minimum(size, cap).sum() > most:
        cap -= 1
    points: dict[str, list[list[float | None]]] = {"x": [], "y": []}
    shown = 0
    for first, n in zip(start.tolist(), size.tolist(), strict=True):
        along = np.arange(n) if n <= cap else np.linspace(0, n - 1, cap).round().astype(int)
        taken = order[first + along]
        points["x"].append(_round_to(x[taken], _decimals(x_range)))
        points["y"].append(_round_to(y[taken], _decimals(y_range)))
        shown += len(taken)
    return points, shown


def _write_note(
    subject: Subject, moments: Moments, listed: Array, rows: GroupRows | None, shown: int
) -> str:
    """Return what the chooser leaves out or holds, in a sentence."""
    notes = []
    if len(listed) < moments.n_groups:
        notes.append(
            f"{len(listed):,} of the {moments.n_groups:,} groups can be chosen, those with the "
            "furthest effects and an even choice of the others"
        )
    held = find_held(moments, find_column(moments))
    if held:
        notes.append(f"lines hold {list_columns(held)} at the means of the group")
    if rows is None and subject.model is not None and not subject.rows:
        notes.append("no rows are drawn, since none was asked for")
    elif rows is None:
        notes.append("no rows are drawn, since the fit comes without them")
    else:
        whole = int(moments.n[listed].sum())
        if shown < whole:
            notes.append(
                f"{shown:,} of the {whole:,} rows are drawn, in each group an even choice along x"
            )
    text = "; ".join(notes)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _tell_apart(labels: list[str]) -> list[str]:
    """Return the labels, those that shortening made equal with their number."""
    seen: dict[str, int] = {}
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
    taken = {label for label, count in seen.items() if count == 1}
    out = []
    for k, label in enumerate(labels, start=1):
        name = label
        while seen[label] > 1 and (name == label or name in taken):
            name, k = f"{label} [{k}]", k + len(labels)
        taken.add(name)
        out.append(name)
    return out


def _decimals(ends: tuple[float, float]) -> int:
    """Return how many decimals tell DIGITS digits of a range."""
    return DIGITS - 1 - int(np.floor(np.log10(ends[1] - ends[0])))


def _round_to(values: Array, decimals: int) -> list[float | None]:
    return [round(v, decimals) if np.isfinite(v) else None for v in values.tolist()]


def _round_digits(values: Array, *, digits: int = DIGITS) -> list[float | None]:
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in values.tolist()]


def _share(values: list[float | None]) -> list[float | None]:
    """Return one number if all are the same."""
    return values[:1] if len(set(values)) == 1 else values
