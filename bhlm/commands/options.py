"""The app, the options that commands share, and the model that they name."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

Which = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="A gallery model, by name or by the path of its TOML."),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="A .csv, .tsv, .csv.gz, .xlsx, .parquet, .feather, .dta, .sav, .sas7bdat or "
        ".moments file; "
        "'parts/*.parquet'; duckdb:///file.db#table; postgresql://host/db#table."
    ),
]
Separator = Annotated[
    str | None, typer.Option(help="Between the columns of a .csv or .tsv file, such as ';'.")
]
Missing = Annotated[
    list[str] | None,
    typer.Option(help="What stands for a missing value, such as -99; may be given several times."),
]
PriorsText = Annotated[
    str | None,
    typer.Option(
        "--priors",
        help="A TOML with the keys fixed, sd, corr, sigma; or text: 'sd=HalfNormal(5); "
        "sigma=Exponential(0.1)'.",
    ),
]
Save = Annotated[
    Path | None,
    typer.Option("--save", help="Keep the posterior here, a .zarr or .nc; bhlm.load reads it."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show no progress and no notes; results and errors only."),
]
MemoryLimit = Annotated[
    str | None, typer.Option(help="Such as 500MB: DuckDB reads the file, within so much memory.")
]
DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="A file, files or a table, as for --data elsewhere.")
]
Parts = Annotated[list[Path], typer.Argument(metavar="PART...", help="Moments files.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The moments file to write.")]
FormulaText = Annotated[str | None, typer.Option(help="Such as 'y ~ x + (x | g)'.")]
Covariance = Annotated[
    str | None,
    typer.Option(help="unstructured, independent, exchangeable or identity; default: formula's."),
]
Df = Annotated[
    str | None,
    typer.Option(
        help="Adds t tests of fixed effects: satterthwaite, kenward-roger, hlm, cr0, cr2 or z."
    ),
]
WeightColumn = Annotated[
    str | None,
    typer.Option(
        "--weights", help="A column of weights of rows, or such as 'w_student / w_school'."
    ),
]
GroupWeights = Annotated[
    str | None,
    typer.Option(
        help="A column of sampling weights of groups; of nested ones 'class=w_class; school=w_s'."
    ),
]
WeightsAre = Annotated[
    str | None,
    typer.Option(
        help="precision (the default), frequency, or sampling (the default with --group-weights)."
    ),
]
Scaling = Annotated[
    str | None, typer.Option(help="Of sampling weights of rows: none, size, effective or gk.")
]
KnownVariance = Annotated[
    str | None, typer.Option(help="A column of sampling variances that are known.")
]
Residual = Annotated[
    str | None,
    typer.Option(help="A column of strata, each of which has a residual variance of its own."),
]
Adjust = Annotated[
    bool,
    typer.Option(
        "--adjust/--no-adjust",
        help="With sampling weights, give the draws the sandwich's covariance.",
    ),
]
Errors = Annotated[
    str | None,
    typer.Option(help="Standard errors: model, full, uncorrected, block or separate."),
]
Replicates = Annotated[
    str | None,
    typer.Option(
        help="Replicate weights of rows, such as 'w_rep{1..80} / w_school', for standard errors."
    ),
]
GroupReplicates = Annotated[
    str | None,
    typer.Option(
        help="Replicate weights of groups, such as 'w_school{1..80}'; of nested ones "
        "'school=w_school{1..80}'."
    ),
]
ReplicatesAre = Annotated[
    str | None, typer.Option(help="BRR (the default), Fay, JK1, JK2, JKn or bootstrap.")
]
Rscales = Annotated[
    str | None,
    typer.Option(
        help="Of JKn's replicates, (n - 1) / n of each one's stratum: '0.5, 0.5, 0.667', or one "
        "number for all."
    ),
]
Rho = Annotated[float | None, typer.Option(help="Of Fay's replicates: 0.5 in PISA.")]
FamilyName = Annotated[
    str | None,
    typer.Option("--family", help="gaussian, bernoulli, binomial or poisson."),
]
Link = Annotated[str | None, typer.Option(help="logit, probit, cloglog or log.")]
Trials = Annotated[str | None, typer.Option(help="The column of the trials.")]
Exposure = Annotated[str | None, typer.Option(help="The column over which is counted.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the numbers here as JSON.")]
Rows = Annotated[
    bool, typer.Option("--rows", help="Let the page hold single rows; it holds none otherwise.")
]
Seed = Annotated[int, typer.Option(help="Makes the run repeatable.")]
Draws = Annotated[int, typer.Option(help="Kept draws per chain.")]
Tune = Annotated[
    int | None, typer.Option(help="Warm-up draws per chain. Default: what suits the model.")
]
Chains = Annotated[int, typer.Option(help="Independent chains.")]
Method = Annotated[
    str | None,
    typer.Option(help="nuts, or independent: draws by importance. Default: what suits the groups."),
]
