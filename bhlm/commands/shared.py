"""What commands share: the model they name, what they print, the progress they show."""

import gc
import glob
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bhlm.errors import ArgumentError, BhlmError, DataError
from bhlm.files import check_output, write_json
from bhlm.layout import show_name
from bhlm.progress import VOICE, show_chains
from bhlm.secrets import hide_password, split_table

if TYPE_CHECKING:
    from bhlm.bayes.priors.resolve import Priors
    from bhlm.design.formula.weights import Weights
    from bhlm.fits.bayes_fit import BayesFit
    from bhlm.fits.model import Model
    from bhlm.fits.pooled_fit import MixtureFit
    from bhlm.fits.reconciliation import Reconciliation
    from bhlm.fits.reml_fit import RemlFit
    from bhlm.moments.either import Reduced
    from bhlm.moments.level_patterns import LevelPatterns
    from bhlm.moments.strata import StratumMoments
    from bhlm.sources.gallery import GalleryModel
    from bhlm.studies.replicate_weights import ReplicateWeights

CHAINS = 4  # of `Model.sample`
OBJECTS = 50_000  # new ones after which garbage is looked for where work goes on for long


def load_arviz() -> None:
    """Load ArviZ ahead of all else that a posterior needs, which is sooner.

    For each package that it does not find it looks through all modules that are loaded by then.
    """
    import arviz_base  # noqa: F401


def load_plots() -> None:
    """Load ArviZ's plots as where matplotlib is not installed, which no figure of a page needs.

    They would load it to add their styles to its own, which takes longer than all the plots.
    """
    if "matplotlib.pyplot" in sys.modules or "arviz_plots" in sys.modules:
        return
    sys.modules["matplotlib.pyplot"] = cast(Any, None)  # what an import of it then fails by
    try:
        import arviz_plots  # noqa: F401
    finally:
        del sys.modules["matplotlib.pyplot"]


def watch_garbage() -> None:
    """Look for garbage often from here on, in what is made from here on: of what may go on long."""
    gc.freeze()
    gc.set_threshold(OBJECTS)


def open_model(
    which: str | None,
    data: str | None,
    formula: str | None,
    *,
    memory_limit: str | None = None,
    separator: str | None = None,
    missing: "Sequence[str] | None" = None,
    several: bool = False,
    counted: bool = False,
    outcome: "Mapping[str, Any] | None" = None,
) -> tuple["Model", "GalleryModel | None"]:
    """Return the model that the arguments name, and its gallery entry if it has one.

    Unless `several`, what a command does is not there yet for several grouping factors, and unless
    `counted` for families but the gaussian; `outcome` has the family, link, trials and exposure.
    """
    from bhlm.design.formula.terms import parse_formula
    from bhlm.design.rows import open_rows

    VOICE.say("reading the data")
    from bhlm.fits.model import Model
    from bhlm.moments.cells import refuse_factors
    from bhlm.moments.file import is_moments_path
    from bhlm.sources.gallery import find_model

    def check(text: str) -> None:
        asked = parse_formula(text)
        if asked.has_levels and not several:
            raise refuse_factors(asked, "this command")

    def refuse_counted(model: Model, path: str) -> None:
        if (model.patterns or model.level_patterns) is not None and not counted:
            raise ArgumentError(
                f"'{path}' has patterns of family='{model.family}', which this command does not "
                f"take yet; bhlm ml --data {path} fits it"
            )

    if which is not None:
        if data is not None or formula is not None:
            raise ArgumentError(
                f"'{which}' names a gallery model, which has its data and formula; give either "
                "the model or --data with --formula"
            )
        entry = find_model(which)
        if not entry.is_gaussian and not counted:
            raise ArgumentError(
                f"'{which}' has family='{entry.family}', which this command does not take yet; "
                f"bhlm ml {which} fits it"
            )
        if any(value is not None for value in (outcome or {}).values()):
            raise ArgumentError(
                f"'{which}' says itself what its data are; leave --family, --weights and the like "
                "out"
            )
        if entry.responses:
            raise ArgumentError(
                f"'{which}' has {len(entry.responses)} plausible values, which this command does "
                "not pool; bhlm reml, sample and reconcile do, and bhlm pool --dashboard writes "
                "the page of a file with such values"
            )
        check(entry.formula)
        return Model(entry.formula, find_data(entry), **entry.outcome), entry
    if data is not None and formula is None and is_moments_path(data):
        model = Model.from_moments(data)
        check(model.formula.text)
        refuse_counted(model, data)
        if any(value is not None for value in (outcome or {}).values()):
            raise ArgumentError(
                f"'{data}' says itself what it was reduced for; leave --family, --weights and the "
                "like out"
            )
        return model, None
    if data is None or formula is None:
        missing = "--data" if data is None else "--formula"
        raise ArgumentError(
            f"{missing} is missing: name a gallery model (bhlm models lists them), or give "
            "--data FILE and --formula 'y ~ x + (x | g)'"
        )
    check(formula)
    given = {key: value for key, value in (outcome or {}).items() if value is not None}
    if is_moments_path(data):
        model = Model(formula, data, **given)
        refuse_counted(model, data)
        return model, None
    rows = open_rows(
        parse_formula(formula), data, memory_limit=memory_limit, separator=separator,
        missing=missing or (), labels=[given["residual"]] if "residual" in given else (),
    )  # fmt: skip
    model = Model(formula, rows, **given)
    parts = (model.patterns, model.level_patterns, model.strata, model.cells)
    reduced = next((each for each in parts if each is not None), None)
    tell_doubts(model.moments if reduced is None else reduced)
    return model, None


def tell_doubts(reduced: "Reduced | LevelPatterns | StratumMoments") -> None:
    """Say, unless to be quiet, which predictors can hardly be meant as numbers."""
    from bhlm.moments.identifiers import doubt_columns

    for sentence in doubt_columns(reduced):
        VOICE.tell(show_name(sentence))


def choose_weights(
    rows: str | None, groups: str | None, kind: str | None, scaling: str | None
) -> "Weights | None":
    """Return what the options of weights mean.

    Raises:
        ArgumentError: a kind that is not known, or options that only sampling weights have.
    """
    from bhlm.design.formula.weights import FrequencyWeights, PrecisionWeights, SamplingWeights

    if rows is groups is kind is scaling is None:
        return None
    kind = kind or ("sampling" if groups or scaling else "precision")
    if kind == "sampling":
        if groups is not None and "=" in groups:
            pairs = [part.partition("=") for part in groups.split(";") if part.strip()]
            by_factor = {name.strip(): text.strip() for name, _, text in pairs}
            return SamplingWeights(rows, by_factor, scaling=scaling or "none")
        return SamplingWeights(rows, groups, scaling=scaling or "none")
    if kind not in ("precision", "frequency"):
        raise ArgumentError(
            f"--weights-are {kind!r} is not known; choose precision, frequency or sampling"
        )
    if groups or scaling or rows is None:
        raise ArgumentError(
            f"--weights-are {kind} takes --weights alone; --group-weights and --scaling are of "
            "sampling weights"
        )
    return PrecisionWeights(rows) if kind == "precision" else FrequencyWeights(rows)


def choose_errors(
    errors: str | None,
    rows: str | None,
    groups: str | None,
    kind: str | None,
    rho: float | None,
    rscales: str | None = None,
) -> "str | ReplicateWeights | None":
    """Return how standard errors are computed: by --errors, or by replicate weights.

    Raises:
        ArgumentError: both, or options of replicate weights without any.
    """
    if all(each is None for each in (rows, groups, kind, rho, rscales)):
        return errors
    from bhlm.studies.replicate_weights import ReplicateWeights

    if rows is None and groups is None:
        raise ArgumentError(
            "--replicates-are, --rho and --rscales say what replicate weights are; give their "
            "columns too, as in --replicates 'w_rep{1..80}'"
        )
    if errors is not None:
        raise ArgumentError(
            f"--errors {errors} and replicate weights are two ways to standard errors; give one"
        )
    found = ReplicateWeights(
        rows=None if rows is None else list_replicates(rows),
        groups=None if groups is None else list_group_replicates(groups),
        method=kind or "BRR",
        rho=rho,
    )
    if rscales is not None:
        found = replace(found, rscales=read_scales(rscales, found.count))
    found.plan()
    return found


def list_group_replicates(text: str) -> "list[str] | dict[str, list[str]]":
    """Return what --group-replicates says, by factor where it is 'school=w{1..80}; class=...'."""
    if "=" not in text:
        return list_replicates(text)
    parts = [part.partition("=") for part in text.split(";") if part.strip()]
    return {name.strip(): list_replicates(own.strip()) for name, _, own in parts}


def read_scales(text: str, count: int) -> list[float]:
    """Return what --rscales says, a number for each of `count` replicates, or one for all.

    Raises:
        ArgumentError: what is no number.
    """
    try:
        found = [float(each) for each in text.replace(",", " ").split()]
    except ValueError as error:
        raise ArgumentError(
            f"--rscales '{text}' is no list of numbers; give one for each replicate, such as "
            "'0.5, 0.5, 0.667'"
        ) from error
    return found * count if len(found) == 1 else found


def list_replicates(text: str) -> list[str]:
    """Return the expressions that a text with a range of numbers stands for: w{1..3} is w1, w2, w3.

    Numbers are as wide as the first: {01..80}.

    Raises:
        ArgumentError: no range, or one that does not rise.
    """
    ranges = re.findall(r"\{(\d+)\.\.(\d+)\}", text)
    if len(set(ranges)) != 1 or int(ranges[0][0]) >= int(ranges[0][1]):
        raise ArgumentError(
            f"'{text}' does not say how many replicates there are; give a range of numbers, such "
            "as 'w_rep{1..80}'"
        )
    (first, last), written = ranges[0], "{" + "..".join(ranges[0]) + "}"
    numbers = (str(at).zfill(len(first)) for at in range(int(first), int(last) + 1))
    return [text.replace(written, number) for number in numbers]


def find_data(entry: "GalleryModel") -> Any:
    """Return the data of a gallery model, files as their path, for `Model` to open."""
    from bhlm.sources.datasets import open_dataset

    return entry.data_path if entry.dataset is None else open_dataset(entry.dataset)


def read_settings(
    entry: "GalleryModel | None", covariance: str | None, priors: str | None = None
) -> tuple["Priors | None", str | None]:
    """Return the priors and structure of a gallery entry, under what the caller names."""
    from bhlm.bayes.priors.resolve import read_priors

    chosen = None if priors is None else read_priors_option(priors)
    if entry is None:
        return chosen, covariance
    return chosen or read_priors(entry.priors), covariance or entry.covariance


def read_priors_option(text: str) -> "Priors | None":
    """Return the priors of a TOML file, or of a text such as 'sd=HalfNormal(5); corr=LKJ(1)'.

    The keys are those of the gallery: fixed, sd, corr, sigma, in the file or in its [priors].

    Raises:
        ArgumentError: a file that cannot be read, or text that is neither.
        PriorError: an unknown key, or text that is no prior.
    """
    import tomllib

    from bhlm.bayes.priors.resolve import read_priors

    if "=" in text and not os.path.exists(text):
        pairs = [part.partition("=") for part in text.split(";") if part.strip()]
        return read_priors({key.strip(): value.strip() for key, _, value in pairs})
    try:
        content = tomllib.loads(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise ArgumentError(
            f"--priors '{text}' cannot be read ({error.strerror}); give a TOML file, or text such "
            "as 'sd=HalfNormal(5)'"
        ) from error
    except ValueError as error:
        raise ArgumentError(f"{text}: not valid TOML ({error}); mend that line") from error
    return read_priors(content.get("priors", content))


def fit_both(
    model: "Model",
    entry: "GalleryModel | None",
    counts: Mapping[str, Any],
    *,
    method: str = "reml",
    covariance: str | None = None,
    priors: str | None = None,
    live: bool = False,
    show: "Callable[[RemlFit | BayesFit], None] | None" = None,
    quiet: bool = False,
) -> "Reconciliation":
    """Return the reconciliation of a model's fits by REML and by Bayes.

    Args:
        model: the model.
        entry: of the gallery, which has priors, a covariance and published values; or None.
        counts: seed, draws, tune and chains, as `Model.sample` takes them.
        method: "reml" or "ml".
        covariance: in the place of the entry's.
        priors: what --priors says, in the place of the entry's.
        live: whether to watch the sampler, and stop it by Ctrl-C.
        show: called with each fit once it is there.
        quiet: whether to show no bars.
    """
    from bhlm.fits.reconciliation import reconcile
    from bhlm.reconciliation.published import check_published

    chosen, structure = read_settings(entry, covariance, priors)
    reml: Any
    if (model.patterns or model.level_patterns) is not None:
        VOICE.say("fitting by maximum likelihood")
        reml = model.ml(covariance=structure)
    else:
        weights = model.formula.weights
        if weights is not None and weights.is_sampling:
            method = "ml"  # there is no REML of a pseudo-likelihood
        VOICE.say(f"fitting by {method.upper()}")
        reml = model.reml(method=method, covariance=structure)
    # What was printed of the other likelihood is not what is computed here.
    published = entry.published if entry and entry.method == reml.method else None
    if published is not None:
        check_published(reml, published)  # refuses what cannot be compared before it is drawn
    if show:
        show(reml)
    post = draw_posterior(
        model, priors=chosen, covariance=structure, live=live, quiet=quiet, **counts
    )
    if show:
        show(post)
    VOICE.say("reconciling")
    return reconcile(reml, post, published=published)


def refuse_live(live: bool, method: str | None) -> None:
    """Refuse to watch draws that no sampler moves for."""
    if live and method == "independent":
        raise ArgumentError(
            "--live watches a sampler, and --method independent has none; leave one of them out"
        )


def draw_posterior(
    model: "Model",
    *,
    priors: "Priors | None",
    covariance: str | None,
    seed: int,
    live: bool = False,
    quiet: bool = False,
    adjust: bool = True,
    **counts: Any,
) -> "BayesFit":
    """Return the posterior, with a bar per chain or, live, in a view that Ctrl-C stops.

    Args:
        model: the model.
        priors: what replaces the autoscaled defaults.
        covariance: in the place of the formula's.
        seed: makes the run repeatable.
        live: whether to watch the sampler, and stop it by Ctrl-C.
        quiet: whether to show no bars.
        adjust: with sampling weights, whether the draws get the sandwich's covariance.
        counts: draws, tune, chains and method, where they are given.
    """
    VOICE.say("posterior")
    if live:
        from bhlm.bayes.draws import Settings
        from bhlm.commands.view import sample_live

        watch_garbage()
        return sample_live(
            model, seed=seed, settings=Settings(**counts), priors=priors, covariance=covariance,
            adjust=adjust,
        )  # fmt: skip
    with _show_bars("posterior", counts.get("chains", CHAINS), quiet=quiet) as progress:
        return model.sample(
            priors=priors, covariance=covariance, seed=seed, progress=progress, adjust=adjust,
            **counts,
        )  # fmt: skip


def report_both(
    both: "Reconciliation",
    *,
    json: Path | None,
    page: Path | None,
    model: "Model | None",
    title: str | None,
    source: dict[str, str],
    df: str | None = None,
    rows: bool = False,
    save: Path | None = None,
) -> int:
    """Print a reconciliation, write its JSON and its page, and return the exit status.

    Args:
        both: the reconciliation.
        json: where its numbers go; None writes none.
        page: where its page goes; None writes none.
        model: has the rows, where they are at hand.
        title: the page's heading; None names the response and the groups.
        source: label -> text on where the model and its data come from.
        df: a method of `reml.fixed_effects` by which JSON and page test the fixed effects too.
        rows: whether the page may hold single rows.
        save: where the posterior is kept; None keeps none.
    """
    writers: list[Callable[[], object]] = [lambda: print_text(both.summary())]
    VOICE.say("writing")
    if save:
        writers.append(lambda: keep_fit(cast("BayesFit", both.post), save))
    if json:
        writers.append(lambda: write_json(both.to_dict(df=df), json))
    if page:
        load_plots()
        from bhlm.reports.dashboard.subjects import write_reconciliation  # few commands need it

        writers.append(
            lambda: write_reconciliation(
                both, page, model=model, title=title, source=source, df=df, rows=rows
            )
        )
    write_all(*writers)
    return 0 if both.verdict in ("agree", "explained") else 1


def print_title(entry: "GalleryModel | None") -> None:
    """Print what a gallery model is, and where it was published."""
    if entry:
        print(f"{entry.title}\n{entry.citation}\n")


def print_text(text: str) -> None:
    """Print lines; a control character of a label is written as an escape."""
    print("\n".join(map(show_name, text.split("\n"))))


def write_command(name: str, *words: str | None, **options: Any) -> str:
    """Return a command line without passwords; options of None or False were not given."""
    line = ["bhlm", name, *(hide_password(word) for word in words if word is not None)]
    for option, value in options.items():
        if value is None or value is False:
            continue
        line.append(f"--{option.replace('_', '-')}")
        if isinstance(value, list):
            line += [str(value[0])]
            line += [word for each in value[1:] for word in (line[-2], str(each))]
        elif value is not True:
            line.append(hide_password(str(value)) if option == "data" else str(value))
    return shlex.join(line)


def check_outputs(
    *reads: str | Path | None,
    json: Path | None = None,
    page: Path | None = None,
    save: Path | None = None,
    file: Path | None = None,
) -> None:
    """Refuse places that cannot be written to, before the work whose results they are to hold.

    Args:
        reads: what the command reads: files, patterns, addresses, names of models.
        json: where the numbers go.
        page: where a page goes, and its own numbers beside it.
        save: where a fit is kept.
        file: where moments or replicates are kept.

    Raises:
        ArgumentError: two of them, or one and what is read, are one file, or a page or a fit has an
            unknown ending.
        DataError: one of them cannot be written.
        MissingPackageError: what writes a fit is not installed.
    """
    if page is not None:
        from bhlm.reports.dashboard.paths import check_path, name_twin

        check_path(page)
        if json is not None and json.resolve() in (page.resolve(), name_twin(page).resolve()):
            raise ArgumentError(
                f"--json '{json}' is where the page '{page}' keeps its own numbers; give another "
                "name"
            )
    if save is not None:
        from bhlm.bayes.storage.file import check_place

        check_place(save)
    if json is not None:
        if save is not None and json.resolve() == save.resolve():
            raise ArgumentError(f"--json '{json}' is where --save keeps the fit; give another name")
        if file is not None and json.resolve() == file.resolve():
            raise ArgumentError(f"--json '{json}' is where replicates are kept; give another name")
        check_output(json)
    writes = [each for each in (json, page, save, file) if each is not None]
    if page is not None:
        writes.append(name_twin(page))
    for read in {each.resolve() for place in reads if place for each in find_inputs(str(place))}:
        for place in writes:
            if place.resolve() == read or (place.exists() and place.samefile(read)):
                raise ArgumentError(
                    f"'{place}' is a file that this command reads; give what it writes another name"
                )


def find_inputs(place: str) -> Iterator[Path]:
    """Yield the files that a path, pattern, address or model names, as far as they exist."""
    from bhlm.sources.gallery import find_model

    if "://" in place:  # of a database in a file
        place = split_table(place)[0].split("://", 1)[1].removeprefix("/")
    for path in [place] if os.path.exists(place) else glob.glob(place, recursive=True):
        yield Path(path)
        if path.endswith(".toml"):
            with suppress(BhlmError):  # a study, or what is refused where it is read
                data = find_model(path).data_path
                if data is not None and data.exists():
                    yield data


def check_rows_asked(*, rows: bool, page: Path | None) -> None:
    """Refuse single rows on a page that is not written.

    Raises:
        ArgumentError: --rows without --dashboard.
    """
    if rows and page is None:
        raise ArgumentError("--rows is for the page; give --dashboard page.html too")


def check_strata(column: str, *, df: str | None = None, rows: bool = False) -> None:
    """Refuse what there is not with residual variances by stratum, before anything slow begins."""
    from bhlm.reml.strata import check_tests

    check_tests(column, df)
    if rows:
        raise ArgumentError(f"--rows is not there yet with residual='{column}'; leave it out")


def refuse_family_rows(family: str) -> ArgumentError:
    """Return the refusal of single rows on the page of a family."""
    return ArgumentError(
        f"--rows is not there for family='{family}', whose page has no figure of single rows; "
        "leave it out"
    )


def name_source(entry: "GalleryModel | None", data: str | None) -> dict[str, str]:
    """Return where a model and its data come from, as a page tells it."""
    return {"Citation": entry.citation} if entry else {"Data": hide_password(str(data))}


def write_page(
    fit: Any, page: Path, *, title: str | None, source: dict[str, str], rows: bool
) -> None:
    """Write the page about one fit, of a single factor or of several, or of a family."""
    from bhlm.bayes.family.draws import FamilyDraws
    from bhlm.bayes.family.level_draws import FamilyLevelDraws
    from bhlm.bayes.level_draws import LevelDraws
    from bhlm.moments.cells import refuse_factors
    from bhlm.reml.family.maximum import FamilyMaximum
    from bhlm.reml.levels import LevelsEstimate
    from bhlm.reports.dashboard.subjects import write_family, write_fit, write_levels

    VOICE.say("writing the page")
    if isinstance(fit, FamilyMaximum | FamilyDraws | FamilyLevelDraws):
        if rows:
            raise refuse_family_rows(fit.family.name)
        write_family(fit, page, title=title, source=source)
    elif isinstance(fit, LevelsEstimate | LevelDraws):
        if rows:
            raise refuse_factors(fit.moments.design.formula, "a page with single rows (--rows)")
        write_levels(fit, page, title=title, source=source)
    else:
        write_fit(fit, page, model=fit.model, title=title, source=source, rows=rows)


def write_all(*writers: Callable[[], object]) -> None:
    """Write every result, also after one that could not be written, which is raised at the end.

    What is printed is among them: where nobody reads it any more, files are written all the same.
    """
    failed: BhlmError | OSError | None = None
    for write in writers:
        try:
            write()
        except (BhlmError, OSError) as error:
            failed = failed or error
    if failed:
        raise failed


def keep_fit(fit: "BayesFit | MixtureFit", path: Path) -> None:
    """Save a fit, and if its place is lost by now, in a folder for temporary files.

    Raises:
        DataError: it could not be saved at its path, and where it stands instead.
    """
    try:
        fit.save(path)
    except BhlmError as error:
        spare = Path(tempfile.mkdtemp(prefix="bhlm-")) / path.name
        try:
            fit.save(spare)
        except BhlmError:
            raise error from None
        raise DataError(f"{error}; the fit was kept at '{spare}'") from error


def _show_bars(title: str, chains: int, *, quiet: bool) -> AbstractContextManager[Any]:
    return nullcontext() if quiet else show_chains(title, chains)
