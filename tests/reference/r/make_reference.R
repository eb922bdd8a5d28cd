# Writes data/*.csv and lme4_reference.json: two-level models fitted by lme4 and described by
# lmerTest, pbkrtest, clubSandwich and nlme. Run from anywhere:
#
#     Rscript tests/reference/r/make_reference.R            everything
#     Rscript tests/reference/r/make_reference.R NAME ...   print these models only, write nothing
#
# Debian packages: r-base r-cran-lme4 r-cran-nlme r-cran-lmertest r-cran-pbkrtest
# r-cran-clubsandwich r-cran-mlmrev r-cran-numderiv r-cran-minqa

here <- dirname(normalizePath(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)[1])))
for (file in c("optimum.R", "quantities.R", "json.R", "models.R")) source(file.path(here, file))
options(warn = 1)

PACKAGES <- c("lme4", "lmerTest", "pbkrtest", "clubSandwich", "nlme", "mlmRev", "Matrix", "minqa",
              "numDeriv")

fit_best <- function(formula, table, reml, seed = 1) {
  d <- deviance_function(formula, table, reml)
  optimum <- find_optimum(d$fn, d$parsed, seed)
  list(fit = fit_at(formula, table, reml, optimum$theta), optimum = optimum)
}

linear_loglik <- function(formula, table, reml) {
  as.numeric(logLik(lm(lme4::nobars(as.formula(formula)), table), REML = reml))
}

describe_model <- function(spec) {
  prepared <- prepare(spec, file.path(here, "data"), file.path(here, "../../../bhlm/data"))
  table <- prepared$table
  methods <- lapply(c(reml = TRUE, ml = FALSE), function(reml) {
    best <- fit_best(prepared$formula, table, reml)
    out <- describe_fit(best$fit, best$optimum, prepared$group)
    out$nlme_logLik <- nlme_loglik(prepared$formula, table, reml, prepared$group)
    out$linear_model <- list(logLik = linear_loglik(prepared$formula, table, reml))
    out$linear_model$chi2 <- 2 * (out$logLik - out$linear_model$logLik)
    if (!is.null(prepared$reduced)) {
      smaller <- fit_best(prepared$reduced, table, reml)$fit
      out$last_slope <- list(
        reduced_formula = gsub("`", "", prepared$reduced),
        logLik = as.numeric(logLik(smaller)),
        chi2 = 2 * as.numeric(logLik(best$fit) - logLik(smaller)),
        df = out$df - attr(logLik(smaller), "df")
      )
    }
    if (!reml) out$profile <- attempt(profile_intervals(best$fit, prepared$group))
    out
  })
  sizes <- table(table[[prepared$group]])
  profile <- methods$ml$profile
  methods$ml$profile <- NULL
  list(
    formula = spec$formula,
    data = if (spec$data == "hsb") "hsb" else paste0("data/", spec$data, ".csv"),
    n = nrow(table),
    groups = length(sizes),
    group = prepared$group,
    reml = methods$reml,
    ml = methods$ml,
    profile = profile
  )
}

chosen <- commandArgs(trailingOnly = TRUE)
if (length(chosen) == 0) {
  dir.create(file.path(here, "data"), showWarnings = FALSE)
  write_datasets(file.path(here, "data"))
}
selected <- if (length(chosen)) MODELS[chosen] else MODELS
stopifnot(!anyNA(names(selected)))
results <- parallel::mclapply(names(selected), function(name) {
  began <- proc.time()[["elapsed"]]
  out <- describe_model(selected[[name]])
  message(sprintf("%-28s %6.1f s  logLik %.9f / %.9f  gradient %.1e / %.1e%s", name,
                  proc.time()[["elapsed"]] - began, out$reml$logLik, out$ml$logLik,
                  out$reml$optimum$scaled_gradient, out$ml$optimum$scaled_gradient,
                  if (out$reml$singular || out$ml$singular) "  singular" else ""))
  out
}, mc.cores = 2, mc.preschedule = FALSE)
failed <- vapply(results, inherits, logical(1), "try-error")
if (any(failed)) stop(paste(names(selected)[failed], unlist(results[failed]), collapse = "; "))
reference <- list(
  about = "Two-level models by lme4 and its companions; written by make_reference.R, see README.md",
  versions = c(list(R = as.character(getRversion())),
               sapply(PACKAGES, function(p) as.character(packageVersion(p)), simplify = FALSE)),
  models = setNames(results, names(selected))
)
text <- to_json(reference)
if (length(chosen)) cat(text, "\n") else writeLines(text, file.path(here, "lme4_reference.json"))
