# Writes lme4_profile.json: the 95 % limits of lme4's confint(profile(fit)) for models of
# r/models.R with at most two random coefficients, fitted by ML. (With three or more, profiles
# of correlations in lme4 1.1.31 stop at points that are not minima.) Run from anywhere:
#
#     Rscript tests/reference/lme4_profile.R
#
# Debian packages: r-base r-cran-lme4 r-cran-nlme r-cran-mlmrev r-cran-jsonlite

suppressMessages(library(lme4))
here <- dirname(normalizePath(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)[1])))
source(file.path(here, "r", "models.R"))
NAMES <- c("dyestuff", "dyestuff2", "rail", "sleepstudy", "sleepstudy_independent", "ergo_stool",
           "orthodont", "orthodont_independent", "body_weight", "pixel", "muscle", "loblolly",
           "rat_pup", "exam", "gcsemv", "hsb_anova", "hsb_random_coefficient")

limits <- function(name) {
  spec <- prepare(MODELS[[name]], file.path(here, "r", "data"), file.path(here, "../../bhlm/data"))
  control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5))
  fit <- suppressMessages(lmer(as.formula(spec$formula), spec$table, REML = FALSE,
                               control = control))
  bounds <- suppressWarnings(confint(profile(fit, signames = FALSE)))
  rows <- gsub("`", "", rownames(bounds), fixed = TRUE)
  rows <- gsub("(Intercept)", "Intercept", rows, fixed = TRUE)
  rows <- sub("^sd_(.*)$", "sd(\\1)", rows)
  # lme4 names the later coefficient first.
  rows <- sub("^cor_(.*)\\.(Intercept)\\|(.*)$", "corr(\\2,\\1|\\3)", rows)
  rows[rows == "sigma"] <- "sd(Residual)"
  message(name)
  setNames(lapply(seq_along(rows), function(k) list(lower = bounds[k, 1], upper = bounds[k, 2])),
           rows)
}

results <- parallel::mclapply(NAMES, limits, mc.cores = 2, mc.preschedule = FALSE)
reference <- list(
  about = "95 % limits of confint(profile(fit, signames = FALSE)), ML; written by lme4_profile.R",
  versions = list(R = as.character(getRversion()), lme4 = as.character(packageVersion("lme4"))),
  models = setNames(results, NAMES)
)
text <- jsonlite::toJSON(reference, auto_unbox = TRUE, digits = NA, pretty = 1, na = "null")
writeLines(text, file.path(here, "lme4_profile.json"))
