"""Model: one hierarchical linear model, stated once, to be fitted either way."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bhlm.design.design import Design, index_rows, weighted_arrays
from bhlm.design.formula.terms import Formula, add_counts, parse_formula
from bhlm.design.formula.weights import (
    Weights,
    read_weights,
    refuse_weights,
    settle_factors,
)
from bhlm.design.rows import formula_columns, open_rows, read_frame, read_table
from bhlm.errors import ArgumentError, DataError, check_arguments, show_value
from bhlm.fits.reduced import load_moments
from bhlm.layout import list_names
from bhlm.moments.cells import CellMoments, CellRows, read_cell_rows, reduce_cells, refuse_factors
from bhlm.moments.file import is_moments_path
from bhlm.moments.groups import place_new_rows
from bhlm.moments.identifiers import doubt_columns
from bhlm.moments.level_patterns import LevelPatterns, reduce_level_patterns
from bhlm.moments.moments import Moments, open_alike, reduce_table
from bhlm.moments.patterns import Patterns, reduce_patterns
from bhlm.moments.same_rows import check_same_rows, is_alike
from bhlm.moments.strata import StratumMoments, reduce_strata
from bhlm.sources.watch import unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    import pymc as pm

    from bhlm.bayes.checks.loo import Loo
    from bhlm.bayes.checks.rows import RowCheck
    from bhlm.bayes.priors.resolve import Priors
    from bhlm.bayes.sampling import Progress
    from bhlm.design.new_rows import At
    from bhlm.fits.bayes_fit import BayesFit
    from bhlm.fits.family_bayes_fit import FamilyBayesFit
    from bhlm.fits.family_fit import FamilyFit
    from bhlm.fits.family_levels_fit import FamilyLevelsFit
    from bhlm.fits.levels_fit import LevelsFit
    from bhlm.fits.reml_fit import RemlFit
    from bhlm.reml.estimate import Estimate
    from bhlm.reml.levels import LevelsEstimate
    from bhlm.studies.replicate_weights import ReplicateWeights

LOGGER = logging.getLogger("bhlm")


@check_arguments
class Model:
    """A formula and the data it is about, reduced to moments in one pass over the table.

    Args:
        formula: such as "y ~ x + (x | g)"; see docs/reference.md for what it may hold.
        data: any dataframe that narwhals accepts, eager or lazy; a path to a .csv, .parquet,
            .dta, .sav, .feather or .moments file; or a `Moments`, `CellMoments` or `Patterns`.
        family: "gaussian"; or "bernoulli", of a response of 0 and 1; "binomial", of successes in
            trials, as in "y / n ~ x + (x | g)"; "poisson", of counts. These have ml() in the place
            of reml().
        link: "logit", "probit" or "cloglog", and "log" of counts; None takes the first.
        trials: the column of the trials, where the formula does not give it.
        exposure: a column over which counts were made; its log is an offset.
        weights: of rows, and perhaps of groups: the name of a column, which is a precision weight
            as lme4's, or `bhlm.FrequencyWeights` or `bhlm.SamplingWeights`, which say what else
            they mean. Moments that are given hold their own.
        known_variance: the column of sampling variances that are known, row by row, as in a
            meta-analysis; no residual variance is estimated.
        residual: a column of strata, each of which has a residual variance of its own.

    Raises:
        ArgumentError: weights that cannot be read, or beside moments that have others.
        FormulaError: the formula cannot be read.
        DataError: the data cannot serve the formula, or have responses outside the family.
        ArgumentError: a family or link that is not known.
    """

    def __init__(
        self,
        formula: str,
        data: Any,
        *,
        weights: "str | Weights | None" = None,
        known_variance: str | None = None,
        residual: str | None = None,
        family: str = "gaussian",
        link: str | None = None,
        trials: str | None = None,
        exposure: str | None = None,
    ) -> None:
        meant = read_weights(weights, known_variance)
        if meant is not None and family != "gaussian":
            # A row of 0 or 1 that stands for w equal ones is w trials with w successes or none.
            counted = family == "bernoulli" and meant.counts_rows
            out = (
                f"a row that counts {meant.rows} times is {meant.rows} trials: make the column of "
                f"successes, the response times {meant.rows}, and write 'successes / {meant.rows} "
                "~ ...' with family='binomial'"
                if counted
                else "leave them out, or fit the gaussian"
            )
            raise ArgumentError(
                f"weights are not there yet with family={family!r} ({meant.sentence}); {out}"
            )
        stated = parse_formula(formula)
        meant = settle_factors(meant, tuple(stated.groupings), stated.find_grouping)
        self.formula: Formula = stated if meant is None else replace(stated, weights=meant)
        self._strata: StratumMoments | None = None
        if residual is not None:
            self._state_strata(data, residual, meant, family=family)
            return
        self._table: Any = None
        self._patterns: Patterns | None = None
        self._level_patterns: LevelPatterns | None = None
        counts = {"link": link, "trials": trials, "exposure": exposure}
        if is_moments_path(data):
            data = load_moments(data)
        if isinstance(data, Patterns | LevelPatterns):
            self._take_patterns(data, family, **counts)
            return
        if family != "gaussian":
            self._state_counts(data, family, **counts)
            return
        for name, value in counts.items():
            if value is not None:
                raise ArgumentError(
                    f"{name}={value!r} is for the families of zeros and ones and of counts; give "
                    "family='bernoulli', 'binomial' or 'poisson' too"
                )
        self._cells: CellMoments | None = None
        if isinstance(data, Moments | CellMoments):
            if str(data.design.formula) != str(self.formula):
                raise DataError(
                    f"the moments were reduced for '{data.formula}', not for '{formula}'; give "
                    "that formula, or reduce the table again"
                )
            if meant is not None and data.weights != meant:
                raise ArgumentError(
                    f"the moments were reduced with {data.weights or 'no weights'}, not with "
                    f"{meant}; leave weights out, or reduce the table again"
                )
            self.formula = data.design.formula
            self._moments: Moments | None = data if isinstance(data, Moments) else None
            self._cells = data if isinstance(data, CellMoments) else None
        else:
            self._table = open_rows(self.formula, data) if isinstance(data, str | Path) else data
            several = self.formula.has_levels
            self._cells = reduce_cells(self.formula, self._table) if several else None
            self._moments = None if several else reduce_table(self.formula, self._table)
            self._doubt_columns(self._moments if self._cells is None else self._cells)

    def _state_counts(
        self,
        data: Any,
        family: str,
        *,
        link: str | None,
        trials: str | None,
        exposure: str | None,
    ) -> None:
        """Reduce a table to the patterns of a family other than the gaussian."""
        from bhlm.likelihood.families import find_family

        found = find_family(family, link)
        if trials is not None and not found.has_trials:
            raise ArgumentError(f"trials={trials!r} is for family='binomial', not for {family!r}")
        if exposure is not None and not found.has_exposure:
            raise ArgumentError(
                f"exposure={exposure!r} is for family='poisson', not for {family!r}"
            )
        self._moments, self._cells = None, None
        self.formula = add_counts(self.formula, trials=trials, exposure=exposure)
        if isinstance(data, Moments | CellMoments):
            raise ArgumentError(
                f"moments hold no single responses, which family={family!r} needs; give the table, "
                f"or a file of its patterns (bhlm moments --family {family})"
            )
        self._table = open_rows(self.formula, data) if isinstance(data, str | Path) else data
        if self.formula.has_levels:
            self._level_patterns = reduce_level_patterns(self.formula, self._table, family=found)
            self._doubt_columns(self._level_patterns)
            return
        self._patterns = reduce_patterns(self.formula, self._table, family=found)
        self._doubt_columns(self._patterns)

    def _take_patterns(
        self,
        patterns: Patterns | LevelPatterns,
        family: str,
        *,
        link: str | None,
        trials: str | None,
        exposure: str | None,
    ) -> None:
        """Take patterns that were reduced before, which hold their family.

        Raises:
            DataError: they are of another formula.
            ArgumentError: they are of another family or link, or weights are asked for.
        """
        own = patterns.family
        asked = add_counts(self.formula, trials=trials, exposure=exposure)
        if self.formula.weights is not None:
            raise ArgumentError(
                f"patterns were reduced without weights, not with {self.formula.weights}; leave "
                "weights out"
            )
        if family not in ("gaussian", own.name) or link not in (None, own.link):
            raise ArgumentError(
                f"the patterns were reduced with family='{own.name}' and link='{own.link}', not "
                f"with {family!r} and {link or own.link!r}; leave both out, or reduce the table "
                "again"
            )
        if str(asked) != str(patterns.design.formula):
            raise DataError(
                f"the patterns were reduced for '{patterns.formula}', not for '{asked.text}'; give "
                "that formula, or reduce the table again"
            )
        self._moments, self._cells = None, None
        self.formula = patterns.design.formula
        if isinstance(patterns, LevelPatterns):
            self._level_patterns = patterns
        else:
            self._patterns = patterns

    @property
    def patterns(self) -> Patterns | None:
        """The reduced table of a family other than the gaussian; None of that."""
        return self._patterns

    @property
    def level_patterns(self) -> LevelPatterns | None:
        """The reduced table of a family with several grouping factors; None of others."""
        return self._level_patterns

    @property
    def family(self) -> str:
        """The name of the family."""
        counted = self._patterns or self._level_patterns
        return "gaussian" if counted is None else counted.family.name

    def _refuse_family(self, what: str) -> ArgumentError:
        if self._level_patterns is not None:
            names = list_names(list(self.formula.groupings), most=9)
            return ArgumentError(
                f"{what} is not there for family='{self.family}' and several grouping factors "
                f"({names}); model.ml() fits it"
            )
        return ArgumentError(f"{what} is not there for family='{self.family}'; model.ml() fits it")

    def _state_strata(
        self, data: Any, residual: str, meant: Weights | None, *, family: str
    ) -> None:
        """Reduce a table by group and stratum."""
        if meant is not None or family != "gaussian":
            raise ArgumentError(
                f"residual='{residual}' is not there yet with weights or another family; leave one "
                "of them out"
            )
        if self.formula.has_levels:
            raise refuse_factors(self.formula, "residual=")
        if is_moments_path(data) or isinstance(data, Moments | CellMoments):
            raise ArgumentError(
                f"residual='{residual}' needs the table, which moments are not; give the table"
            )
        self._patterns = self._level_patterns = None
        self._cells = self._moments = None
        is_named = isinstance(data, str | Path)
        self._table = open_rows(self.formula, data, labels=[residual]) if is_named else data
        self._strata = reduce_strata(self.formula, self._table, residual)
        self._doubt_columns(self._strata)

    def _doubt_columns(self, reduced: Any) -> None:
        """Tell of predictors that can hardly be meant as numbers."""
        for sentence in doubt_columns(reduced):
            LOGGER.warning("%s", sentence)

    @classmethod
    def from_moments(
        cls, data: str | Path | Moments | CellMoments | Patterns | LevelPatterns
    ) -> "Model":
        """Return the model that moments, or a file of them, were reduced for."""
        moments = load_moments(data) if isinstance(data, str | Path) else data
        return cls(moments.formula, moments)

    @property
    def moments(self) -> Moments:
        """The reduced table of a single factor; of a family its `Patterns`.

        Raises:
            ArgumentError: there are several factors; `cells` has their moments.
        """
        if self._patterns is not None:
            return cast("Moments", self._patterns)
        if self._level_patterns is not None:
            raise self._refuse_family("what needs model.moments, as a file or a posterior does,")
        if self._strata is not None:
            raise ArgumentError(
                f"what needs model.moments is not there with residual='{self._strata.column}'; "
                "model.strata holds those of every stratum"
            )
        if self._moments is None:
            raise refuse_factors(self.formula, "what needs model.moments or model.rows()")
        return self._moments

    @property
    def strata(self) -> StratumMoments | None:
        """The reduced table by stratum, where residual variances differ; None elsewhere."""
        return self._strata

    @property
    def cells(self) -> CellMoments | None:
        """The reduced table of several grouping factors; None of one."""
        return self._cells

    @property
    def design(self) -> Design:
        """The columns of the model, and the levels and constants that they rest on."""
        if self._patterns is not None:
            return self._patterns.design
        if self._level_patterns is not None:
            return self._level_patterns.design
        return self.moments.design if self._cells is None else self._cells.design

    @property
    def has_rows(self) -> bool:
        """Whether the rows are at hand: not for a model that was made from moments."""
        return self._table is not None

    def __repr__(self) -> str:
        """Return the formula and the size of the data."""
        if self._patterns is not None:
            found = self._patterns
            size = f"{found.n_rows} rows in {found.n_groups} groups, {found.n_patterns} patterns"
            size += f"; {found.rows_used}" if found.dropped else ""
            return f"Model({found.formula!r}, {found.family.name}, {found.family.link}: {size})"
        if self._level_patterns is not None:
            several = self._level_patterns
            size = f"{several.size}, {several.n_patterns} patterns"
            size += f"; {several.rows_used}" if several.dropped else ""
            kind = f"{several.family.name}, {several.family.link}"
            return f"Model({several.formula!r}, {kind}: {size})"
        if self._strata is not None:
            strata = f"{len(self._strata.levels)} strata by {self._strata.column!r}"
            return f"Model({self.formula.text!r}: {self._strata.rows_used}, {strata})"
        if self._cells is not None:
            size = self._cells.size
            size += f"; {self._cells.rows_used}" if self._cells.dropped else ""
            return f"Model({self._cells.formula!r}: {size})"
        size = f"{self.moments.n_rows} rows in {self.moments.n_groups} groups"
        size += f"; {self.moments.rows_used}" if self.moments.dropped else ""
        return f"Model({self.moments.formula!r}: {size})"

    def reml(
        self,
        *,
        method: str = "reml",
        covariance: str | None = None,
        start: "RemlFit | LevelsFit | None" = None,
        errors: "str | ReplicateWeights | None" = None,
    ) -> "RemlFit":
        """Return the fit by restricted ("reml") or full ("ml") maximum likelihood.

        That of several grouping factors is a `LevelsFit`, which refuses what a `RemlFit` offers
        beyond it.

        Args:
            method: "reml" or "ml".
            covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps
                what the formula says.
            start: a fit of the same model to start from, such as the one before new rows came.
            errors: "model", or by the groups' scores "full", "uncorrected", "block" or "separate",
                see `RemlFit.compare_conventions`; None is "full" with sampling weights, and else
                "model". Or the `bhlm.ReplicateWeights` of a survey: a refit for each.

        Raises:
            ArgumentError: REML of sampling weights, or of errors by scores; an argument that is
                not known.
        """
        from bhlm.fits.reml_fit import RemlFit
        from bhlm.reml.estimate import fit_moments

        if self._patterns is not None or self._level_patterns is not None:
            raise self._refuse_family("restricted maximum likelihood")
        if errors is not None and not isinstance(errors, str):
            return self._fit_replicates(errors, method=method, covariance=covariance, start=start)
        if self._strata is not None:
            from bhlm.fits.strata_fit import StrataFit
            from bhlm.reml.strata import fit_strata

            if start is not None or errors not in (None, "model"):
                raise ArgumentError("start= and errors= are not there yet with residual=")
            by_stratum = fit_strata(self._strata, method=method, covariance=covariance)
            return cast("RemlFit", StrataFit.of(by_stratum, model=self))
        if self._cells is not None:
            from bhlm.fits.levels_fit import LevelsFit
            from bhlm.reml.levels import fit_cells

            several = fit_cells(
                self._cells,
                method=method,
                covariance=covariance,
                start=cast("LevelsEstimate | None", start),
                errors=errors,
            )
            return cast("RemlFit", LevelsFit.of(several, model=self))
        found = fit_moments(
            self.moments,
            method=method,
            covariance=covariance,
            start=cast("Estimate | None", start),
            errors=errors,
        )
        return RemlFit.of(found, model=self)

    def ml(
        self, *, covariance: str | None = None, nagq: int | None = None
    ) -> "FamilyFit | FamilyLevelsFit | RemlFit":
        """Return the fit by maximum likelihood, of a family as a `FamilyFit`.

        The random effects are integrated until the log-likelihood is known to 1e-8. Those of
        crossed factors are not: their likelihood is Laplace's approximation, and the
        `FamilyLevelsFit` says so wherever it is printed.

        Args:
            covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps
                what the formula says.
            nagq: so many Gauss-Hermite nodes per dimension, as other programs take, 1 being
                Laplace's approximation; None takes as many as are needed.

        Raises:
            ArgumentError: more than three random coefficients; nodes of a gaussian model, whose
                likelihood needs none; several nodes of crossed factors.
            IdentifiabilityError: the data cannot identify the model, such as by separation.
        """
        if self._level_patterns is not None:
            from bhlm.fits.family_levels_fit import FamilyLevelsFit
            from bhlm.reml.family.nested import fit_factors

            several = fit_factors(self._level_patterns, covariance=covariance, nagq=nagq)
            return FamilyLevelsFit.of(several, model=self)
        if self._patterns is None:
            if nagq is not None:
                raise ArgumentError(
                    f"nagq={nagq} is for families whose likelihood is an integral; leave it out"
                )
            return self.reml(method="ml", covariance=covariance)
        from bhlm.fits.family_fit import FamilyFit
        from bhlm.reml.family.estimate import fit_patterns

        found = fit_patterns(self._patterns, covariance=covariance, nagq=nagq)
        return FamilyFit.of(found, model=self)

    def sample(
        self,
        *,
        seed: int | None = None,
        draws: int = 1000,
        tune: int | None = None,
        chains: int = 4,
        priors: "Priors | None" = None,
        covariance: str | None = None,
        cores: int | None = None,
        target_accept: float | None = None,
        maxdepth: int = 10,
        prior_only: bool = False,
        sampler: str | None = None,
        adjust: bool = True,
        progress: "Progress | None" = None,
        method: str | None = None,
    ) -> "BayesFit":
        """Return draws from the posterior; see `bhlm.bayes.sampling.sample_moments`.

        Those of several grouping factors are a `LevelBayesFit`, and those with sampling weights,
        known variances or strata a `WeightedBayesFit`, which refuse what a `BayesFit` offers beyond
        them; those of zeros and ones, proportions and counts a `FamilyBayesFit`, of nested factors
        a `FamilyLevelBayesFit`.

        Args:
            seed: makes the run repeatable, bit for bit; without one it is drawn and kept as
                `fit.seed`.
            draws: kept draws per chain.
            tune: warm-up draws per chain, discarded; None takes 300 where chains start from the
                posterior's mode and the curvature there, and 1000 for prior_only, families of one
                factor and PyMC's sampler.
            chains: independent chains.
            priors: what replaces the autoscaled defaults.
            covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
                the formula says.
            cores: chains that run side by side; None leaves it to nutpie.
            target_accept: mean acceptance that the step size is tuned to, in (0, 1); None takes
                0.9, and 0.99 with fewer than 30 groups, whose SDs have heavy-tailed posteriors:
                at 0.9 half of all runs with six groups diverge somewhere. From 1000 groups on,
                where the posterior is all but normal about its mode, it takes 0.7.
            maxdepth: trajectories have at most 2**maxdepth steps.
            prior_only: leave the likelihood out.
            sampler: "density" moves on bhlm's own compiled density, "pymc" on the marginal
                pm.Model, which has to be compiled in each process; None takes "pymc" where a
                prior is a PyMC distribution and else "density".
            adjust: with sampling weights, whether the draws of the pseudo-posterior get the
                sandwich's covariance (Williams & Savitsky 2021); without it they are not certified.
            progress: called now and then with nutpie's progress of every chain.
            method: "nuts"; or "independent", draws that are resampled from a proposal fitted to the
                posterior, refused where Pareto's k of their weights is above 0.7 or too few of them
                are effective, see `bhlm.bayes.independent`. None takes these from 5000 groups of a
                single factor on, and of crossed factors that leave a dense rest of more than 300
                columns, if they are not refused, and else NUTS; tune, target_accept, maxdepth and
                cores are for NUTS alone.

        Raises:
            ArgumentError: a count that is not positive, a covariance that has no prior here, or
                method="independent" of a posterior that it has no draws of to be trusted.
            PriorError: priors that do not fit the model.
            IdentifiabilityError: the moments cannot identify the model.
        """
        from bhlm.bayes.draws import Settings
        from bhlm.bayes.sampling import sample_moments
        from bhlm.fits.bayes_fit import BayesFit

        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if seed < 0:
            raise ArgumentError(f"seed={seed} is not a seed; give an integer of 0 or more")
        settings = Settings(
            draws=draws, tune=tune, chains=chains, target_accept=target_accept, maxdepth=maxdepth,
            prior_only=prior_only, sampler=sampler, cores=cores, method=method,
        )  # fmt: skip
        if self._patterns is not None:
            from bhlm.bayes.family.sampling import sample_patterns
            from bhlm.fits.family_bayes_fit import FamilyBayesFit

            counted = sample_patterns(
                self._patterns, seed=seed, settings=settings, priors=priors, covariance=covariance,
                progress=progress,
            )  # fmt: skip
            return cast("BayesFit", FamilyBayesFit.of(counted, model=self))
        if self._level_patterns is not None:
            from bhlm.bayes.family.level_sampling import sample_level_patterns
            from bhlm.fits.family_level_bayes_fit import FamilyLevelBayesFit

            nested = sample_level_patterns(
                self._level_patterns, seed=seed, settings=settings, priors=priors,
                covariance=covariance, progress=progress,
            )  # fmt: skip
            return cast("BayesFit", FamilyLevelBayesFit.of(nested, model=self))
        if self._cells is not None:
            from bhlm.bayes.level_sampling import sample_cells
            from bhlm.fits.level_bayes_fit import LevelBayesFit

            several = sample_cells(
                self._cells, seed=seed, settings=settings, priors=priors, covariance=covariance,
                progress=progress,
            )  # fmt: skip
            return cast("BayesFit", LevelBayesFit.of(several, model=self))
        found = sample_moments(
            self.moments if self._strata is None else self._strata,
            seed=seed,
            settings=settings,
            priors=priors,
            covariance=covariance,
            progress=progress,
            adjust=adjust,
        )
        if found.white.is_plain:
            return BayesFit.of(found, model=self)
        from bhlm.fits.weighted_bayes_fit import WeightedBayesFit

        return cast("BayesFit", WeightedBayesFit.of(found, model=self))

    def pymc(
        self,
        *,
        form: str = "marginal",
        priors: "Priors | None" = None,
        covariance: str | None = None,
    ) -> "pm.Model":
        """Return the model as a pm.Model.

        Args:
            form: "marginal" integrates the random effects out and needs only moments;
                "conditional" holds them explicitly, non-centred, and needs the rows. Of a family
                it is the conditional that is there, over the patterns.
            priors: what replaces the autoscaled defaults.
            covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
                the formula says.

        Raises:
            ArgumentError: an unknown form.
            DataError: the conditional form of a model that has only moments.
        """
        from bhlm.bayes.priors.correlations import arrange_prior
        from bhlm.bayes.priors.resolve import resolve_priors
        from bhlm.bayes.pymc_model import build_conditional, build_marginal
        from bhlm.likelihood.whitening import whiten, whiten_strata

        if form not in ("marginal", "conditional"):
            raise ArgumentError(f"form={form!r} is not known; choose 'marginal' or 'conditional'")
        if self._patterns is not None:
            return self._build_patterns(self._patterns, form, priors, covariance)
        if self._level_patterns is not None:
            return self._build_level_patterns(self._level_patterns, form, priors, covariance)
        if self._cells is not None:
            return self._build_levels(self._cells, form, priors, covariance)
        strata = self._strata
        moments = self.moments if strata is None else strata.whole
        structure = arrange_prior(moments, covariance)
        resolved = resolve_priors(priors, moments, structure=structure)
        if form == "marginal":
            white = (
                whiten(moments, structure) if strata is None else whiten_strata(strata, structure)
            )
            return build_marginal(moments, white, resolved, structure)
        if moments.weights is not None:
            raise refuse_weights(moments.weights, "form='conditional'")
        return build_conditional(self.moments, self.rows(), resolved, structure)

    def _build_patterns(
        self, patterns: Patterns, form: str, priors: "Priors | None", covariance: str | None
    ) -> "pm.Model":
        """Return the conditional model of a family as a pm.Model."""
        from bhlm.bayes.priors.correlations import arrange_prior
        from bhlm.bayes.priors.resolve import resolve_priors
        from bhlm.bayes.pymc_model import build_conditional_patterns

        if form == "marginal":
            raise ArgumentError(
                f"form='marginal' is not there for family='{self.family}', whose random effects "
                "PyMC cannot integrate; give form='conditional'"
            )
        structure = arrange_prior(patterns, covariance)
        resolved = resolve_priors(priors, patterns, structure=structure)
        return build_conditional_patterns(patterns, resolved, structure)

    def _build_level_patterns(
        self,
        patterns: LevelPatterns,
        form: str,
        priors: "Priors | None",
        covariance: str | None,
    ) -> "pm.Model":
        """Return the conditional model of a family with several factors as a pm.Model."""
        from bhlm.bayes.priors.correlations import arrange_prior
        from bhlm.bayes.priors.resolve import resolve_priors
        from bhlm.bayes.pymc_model import build_conditional_level_patterns

        if form == "marginal":
            raise ArgumentError(
                f"form='marginal' is not there for family='{self.family}', whose random effects "
                "PyMC cannot integrate; give form='conditional'"
            )
        reduced = cast("Any", patterns)
        structure = arrange_prior(reduced, covariance)
        resolved = resolve_priors(priors, reduced, structure=structure)
        return build_conditional_level_patterns(patterns, resolved, structure)

    def _build_levels(
        self, cells: CellMoments, form: str, priors: "Priors | None", covariance: str | None
    ) -> "pm.Model":
        """Return the model of several grouping factors as a pm.Model."""
        from bhlm.bayes.priors.correlations import arrange_prior
        from bhlm.bayes.priors.resolve import resolve_priors
        from bhlm.bayes.pymc_model import build_conditional_levels, build_marginal_levels
        from bhlm.likelihood.cells import whiten_cells

        if cells.weights is not None and (cells.weights.is_sampling or form != "marginal"):
            raise refuse_weights(cells.weights, f"form='{form}'")
        structure = arrange_prior(cells, covariance)
        resolved = resolve_priors(priors, cells, structure=structure)
        if form == "marginal":
            white = whiten_cells(cells, structure.parts)
            return build_marginal_levels(cells, white, resolved, structure)
        if not self.has_rows:
            raise DataError(
                "this model was made from moments and has no rows; make it from the table, or use "
                "form='marginal'"
            )
        rows = read_cell_rows(self.formula, self._table)
        return build_conditional_levels(cells, rows, resolved, structure)

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return group labels (n,), X (n, p), Z (n, q) and y (n,) of the rows used.

        Raises:
            DataError: the model was made from moments, which have no rows; or the table has
                changed since the model was made from it.
        """
        return self._read_rows()[0]

    def cell_rows(self) -> CellRows:
        """Return the complete rows of a model of several grouping factors, in their order.

        They are the codes (F, n) of each factor's units, X (n, p), Z (n, q_f) of each factor, and y
        (n,).

        Raises:
            ArgumentError: the model has a single grouping factor.
            DataError: the model was made from moments, which have no rows.
        """
        if self._level_patterns is not None:
            raise self._refuse_family("what needs single rows")
        if self._cells is None:
            raise ArgumentError(
                f"'{self.design.formula}' has a single grouping factor; model.rows() returns its "
                "rows"
            )
        if not self.has_rows:
            raise DataError(
                "this model was made from moments and has no rows; make it from the table"
            )
        return read_cell_rows(self.formula, self._table)

    def _read_rows(
        self,
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], "pd.Index"]:
        """Return what `rows` does, and what the table calls these rows."""
        self._refuse_weights("what needs single rows")
        rows, _, index = self._read_weighted()
        return rows, index

    def _read_weighted(
        self,
    ) -> tuple[
        tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], "np.ndarray | None", "pd.Index"
    ]:
        """Return the rows, their weights (n,) if cross-products have any, and their names."""
        if not self.has_rows:
            raise DataError(
                "this model was made from moments and has no rows; make it from the table, or "
                "use what needs only moments, such as form='marginal'"
            )
        if self._patterns is not None or self._level_patterns is not None:
            raise self._refuse_family("what needs single rows")
        moments, weights = self.moments, self.formula.weights
        with unchanged(self._table, since_opened=False):
            table = read_table(self._table, self.formula)
            rows, given = weighted_arrays(self.design, table, check=False)
            own = given if weights is not None and weights.weighs_rows else None
            check_same_rows(moments, *rows, weights=own)
            return rows, own, self._name_rows(index_rows(self.design, table), rows[0])

    def _refuse_weights(self, what: str, *, sampling: bool = False) -> None:
        """Refuse weights, or with `sampling` those whose likelihood is none of the rows."""
        weights = self.formula.weights
        if weights is not None and (weights.is_sampling or not sampling):
            raise refuse_weights(weights, what)

    def _check_formula(self, fit: Any) -> None:
        """Refuse a fit of another model: of other columns, another response or other weights."""
        if self._patterns is not None or self._level_patterns is not None:
            raise self._refuse_family("what needs single rows")
        asked, made = self.moments, fit.moments
        one, other = (
            (each.fixed, each.random, each.group, each.response, each.design.formula.weights)
            for each in (asked, made)
        )
        if one == other:
            return
        given = [
            f"'{each.formula}'" + (f" with {weights.sentence}" if weights is not None else "")
            for each, weights in ((made, other[-1]), (asked, one[-1]))
        ]
        raise ArgumentError(
            f"the fit is of {given[0]} and this model is {given[1]}; take the model that was fitted"
        )

    def _check_fit(self, fit: Any) -> None:
        """Refuse a fit of another model, or of other rows, where it is asked of this model's."""
        self._check_formula(fit)
        asked, made = self.moments, fit.moments
        same = np.array_equal(asked.groups, made.groups) and np.array_equal(asked.n, made.n)
        if not same or not is_alike(
            (made.mean, made.cross), (asked.mean, asked.cross), n=made.n_rows
        ):
            raise DataError(
                f"the fit of '{made.formula}' is of {made.n_rows} rows of {made.n_groups} groups "
                f"that are others than the {asked.n_rows} of this model; take the model that was "
                "fitted"
            )

    def _name_rows(self, index: "pd.Index | None", labels: np.ndarray) -> "pd.Index":
        """Return what a table calls its rows; their groups where they have no order."""
        import pandas as pd

        return pd.Index(labels, name=self.design.group) if index is None else index

    def predict(
        self,
        fit: "RemlFit | LevelsFit | BayesFit | FamilyFit | FamilyLevelsFit | FamilyBayesFit",
        data: Any = None,
        *,
        kind: str = "conditional",
        scale: str | None = None,
        new_groups: str = "error",
        level: float = 0.95,
        at: "At | None" = None,
    ) -> "pd.DataFrame":
        """Return predictions with intervals for the rows of a table; None is the model's own.

        See `bhlm.reml.predictions.predict_rows` for the columns and the choices, and
        `bhlm.bayes.predictions.predict_posterior` for what they are of a BayesFit. New rows need no
        response, and for kind="population" no group. cwc() and gm() of new rows take the group
        means of the rows that the model was made from. A group that is not among them has none:
        `at` gives it, as in at={"gm(ses)": 0.0}, a number or one for each new row; or
        at="new rows" takes the mean of its new rows, if these are a whole group.

        Those of a family are on the scale of the response, probabilities or rates, or by
        scale="link" on that of the linear predictor; see `bhlm.reml.family.predictions`.

        The result has the index of a pandas table; rows of others are numbered from 0, and those
        of a database, which have no order, are called by their group.

        Raises:
            ArgumentError: a fit of another model, or a choice that is not known.
            DataError: a model of moments has no rows; new rows miss a value, hold a level or a
                group that the model does not know, or need a group mean that nothing gives.
        """
        from bhlm.fits.reml_fit import RemlFit

        if self._patterns is not None:
            from bhlm.fits.family_rows import predict_family

            return predict_family(
                self._patterns,
                self._table,
                cast("FamilyFit | FamilyBayesFit", fit),
                data,
                kind=kind,
                scale=scale or "response",
                new_groups=new_groups,
                level=level,
                at=at,
            )
        if self._level_patterns is not None:
            from bhlm.fits.family_level_rows import predict_family_levels

            return predict_family_levels(
                self._level_patterns,
                self._table,
                fit,
                data,
                kind=kind,
                scale=scale or "response",
                new_groups=new_groups,
                level=level,
                at=at,
            )
        if scale is not None:
            raise ArgumentError(
                f"scale={scale!r} is for families with a link; the gaussian has one scale alone"
            )
        if self._cells is not None:
            from bhlm.fits.level_rows import predict_levels

            return predict_levels(
                self._cells,
                self._table,
                fit,
                data,
                kind=kind,
                new_groups=new_groups,
                level=level,
                at=at,
            )
        fit = cast("RemlFit | BayesFit", fit)
        self._refuse_weights("predict()", sampling=isinstance(fit, RemlFit))
        self._check_formula(fit)
        if data is None:
            (labels, x, z, _), _, index = self._read_weighted()
        else:
            if not self.has_rows:
                raise DataError("this model was made from moments and cannot read new rows")
            from bhlm.design.new_rows import list_means, read_new_rows

            new = open_alike(self.moments, data) if isinstance(data, str | Path) else data

            def check(found: np.ndarray) -> None:
                place_new_rows(self.moments, found, kind=kind, new_groups=new_groups)

            with unchanged(self._table, new, since_opened=False):
                if list_means(self.design):
                    # Of these rows the means are taken: are they those of the model?
                    self._read_weighted()
                labels, x, z, index, _ = read_new_rows(
                    self.design,
                    self._table,
                    new,
                    needs_group=kind != "population",
                    at=at,
                    check=check,
                )
            index = self._name_rows(index, labels)
        choice: dict[str, Any] = {"kind": kind, "new_groups": new_groups, "level": level}
        if isinstance(fit, RemlFit):
            from bhlm.reml.predictions import predict_rows

            return predict_rows(fit, labels, x, z, **choice).set_axis(index)
        from bhlm.bayes.predictions import predict_posterior

        return predict_posterior(fit, labels, x, z, **choice).set_axis(index)

    def read_fixed(self, data: Any) -> np.ndarray:
        """Return the columns (n, p) of the fixed effects at the rows of a table.

        cwc() and gm() take the group means of the rows that the model was made from.

        Raises:
            DataError: as `predict`.
        """
        if not self.has_rows:
            raise DataError("this model was made from moments and cannot read new rows")
        if self._cells is not None:
            from bhlm.fits.level_rows import read_new_level_rows

            return read_new_level_rows(self._cells, self._table, data, needs_group=False)[0].x
        if self._level_patterns is not None:
            from bhlm.fits.level_rows import read_new_columns

            return read_new_columns(self._level_patterns, self._table, data, needs_group=False).x
        from bhlm.design.new_rows import read_new_rows

        return read_new_rows(self.design, self._table, data, needs_group=False).x

    def list_rows(self) -> "pd.DataFrame":
        """Return the columns that the formula reads of the rows that are complete, as pandas.

        Raises:
            DataError: a model of moments has no rows.
        """
        if not self.has_rows:
            raise DataError("this model was made from moments and has no rows")
        names = formula_columns(self.formula)
        held = read_frame(read_table(self._table, self.formula)).lazy().select(*names).collect()
        return cast("pd.DataFrame", held.to_pandas().dropna().reset_index(drop=True))

    def replicate_errors(
        self,
        fit: "RemlFit | LevelsFit",
        *,
        rows: "Sequence[str] | None" = None,
        groups: "Sequence[str] | Mapping[str, Sequence[str]] | None" = None,
        method: str = "BRR",
        rho: float | None = None,
        rscales: "Sequence[float] | None" = None,
        mse: bool = True,
        progress: "Callable[[int, int], None] | None" = None,
    ) -> "pd.DataFrame":
        """Return the estimates of a fit with standard errors from replicate weights.

        Each replicate is a refit, with its own weights of rows, of groups, or of both, in the place
        of the model's; rows in which a column of them is zero are left out of it. See
        `bhlm.studies.replicate_weights`.

        Args:
            fit: by pseudo-ML, of this model.
            rows: R columns, or expressions such as "w_fstr1 / w_fschwt"; None keeps the model's.
            groups: R columns of weights of groups; None keeps the model's. With several factors a
                mapping from factor to R columns.
            method: "BRR", "Fay", "JK1", "JK2", "JKn" or "bootstrap", as the survey says.
            rho: of Fay's method, 0.5 in PISA.
            rscales: of JKn, one for each replicate.
            mse: whether deviations are from the full estimates, not from the replicates' mean.
            progress: called with (done, replicates); None shows a bar in a terminal.

        Raises:
            ArgumentError: a model without sampling weights, lists of different lengths, or what the
                method does not allow.
            DataError: the model was made from moments, which have no rows.
        """
        import narwhals as nw

        from bhlm.design.formula.expressions import column_names
        from bhlm.design.rows import read_frame
        from bhlm.progress import show_progress
        from bhlm.reml.estimate import fit_moments
        from bhlm.reml.levels import LevelsEstimate, fit_cells
        from bhlm.studies.replicate_weights import ReplicateWeights, tabulate_replicates

        replicates = ReplicateWeights(rows, groups, method, rho, rscales, mse)
        meant = replicates.check(self.formula.weights)
        if not self.has_rows:
            raise DataError(
                "this model was made from moments, which hold no replicate weights; make it from "
                "the table"
            )
        scheme = replicates.plan()

        def refit(r: int) -> Any:
            own = replicates.weigh(meant, r)
            formula = replace(self.formula, weights=own)
            frame = read_frame(read_table(self._table, formula))
            for expression in own.expressions:
                for name in column_names(expression):
                    frame = frame.filter(nw.col(name) != 0)
            table = frame.to_native()
            if isinstance(fit, LevelsEstimate):
                return fit_cells(
                    reduce_cells(formula, table),
                    method="ml",
                    covariance=fit.structures[0].name_override,
                    start=None if fit.singular else fit,
                    errors="model",
                )
            return fit_moments(
                reduce_table(formula, table),
                method="ml",
                covariance=fit.structure.name_override,
                start=None if fit.singular else fit,
                errors="model",
            )

        with show_progress("replicates") as bar:
            return tabulate_replicates(fit, refit, scheme, progress=progress or bar)

    def _fit_replicates(
        self, errors: "ReplicateWeights", *, method: str, covariance: str | None, start: Any
    ) -> "RemlFit":
        """Return the fit by pseudo-ML with standard errors by replicate weights."""
        from dataclasses import asdict

        from bhlm.fits.reml_fit import RemlFit
        from bhlm.studies.replicate_weights import ReplicateWeights, correct_errors

        if not isinstance(errors, ReplicateWeights):
            raise ArgumentError(
                f"errors={show_value(errors)} is neither a name such as 'model' or 'full' nor a "
                "bhlm.ReplicateWeights"
            )
        errors.check(self.formula.weights)
        _ = errors.plan()
        fit: Any = self.reml(method=method, covariance=covariance, start=start, errors="model")
        corrected = correct_errors(fit, self.replicate_errors(fit, **asdict(errors)), errors)
        if self._cells is not None:
            from bhlm.fits.levels_fit import LevelsFit

            return cast("RemlFit", LevelsFit.of(corrected, model=self))
        return RemlFit.of(corrected, model=self)

    def residuals(self, fit: "RemlFit | LevelsFit") -> "pd.DataFrame":
        """Return the level-1 residuals; see `bhlm.reml.residuals.row_residuals`.

        Rows are called as those of `predict` are, so that `table["res"] = ...` finds each its own.

        Raises:
            DataError: a model of moments has no rows.
        """
        from bhlm.reml.residuals import row_residuals

        if self._cells is not None:
            from bhlm.fits.level_rows import list_level_residuals

            return list_level_residuals(self._cells, self._table, fit)
        self._refuse_weights("residuals()", sampling=True)
        self._check_fit(fit)
        rows, given, index = self._read_weighted()
        counts = self.formula.weights is not None and self.formula.weights.counts_rows
        weights = None if counts else given
        return row_residuals(cast("RemlFit", fit), *rows, weights=weights).set_axis(index)

    def check_rows(
        self, fit: "BayesFit", *, draws: int = 100, seed: int | None = None
    ) -> "RowCheck":
        """Return the rows, called as in `predict`, beside their predictive distribution.

        See `bhlm.bayes.checks.rows.check_rows`.

        Raises:
            DataError: a model of moments has no rows.
        """
        from bhlm.bayes.checks.rows import check_rows

        if self._cells is not None:
            from bhlm.bayes.checks.level_rows import check_level_rows
            from bhlm.fits.level_rows import read_own_level_rows

            post, own, called = read_own_level_rows(self._cells, self._table, fit)
            return check_level_rows(post, own, draws=draws, seed=seed, index=called)
        self._check_fit(fit)
        rows, index = self._read_rows()
        return check_rows(fit, *rows, draws=draws, seed=seed, index=index)

    def loo_rows(self, fit: "BayesFit") -> "Loo":
        """Return the leave-one-row-out elpd; see `bhlm.bayes.checks.rows.leave_out_rows`.

        Rows are called as those of `predict` are.

        Raises:
            DataError: a model of moments has no rows.
        """
        from bhlm.bayes.checks.rows import leave_out_rows

        if self._cells is not None:
            from bhlm.bayes.checks.level_rows import leave_out_level_rows
            from bhlm.fits.level_rows import read_own_level_rows

            post, own, called = read_own_level_rows(self._cells, self._table, fit)
            return leave_out_level_rows(post, own, index=called)
        self._check_fit(fit)
        rows, index = self._read_rows()
        return leave_out_rows(fit, *rows, index=index)
