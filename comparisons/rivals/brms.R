# brms: brm(formula, data), compiled for each model, with its default priors. Source: Buerkner
# (2017), Journal of Statistical Software 80(1); ?brm.
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "contract.R"))

fit <- function(request) {
  suppressPackageStartupMessages(library(brms))
  # Debian has Boost's headers with the system's, where rstan does not look for them.
  if (!file.exists(rstan::rstan_options("boost_lib")) && dir.exists("/usr/include/boost")) {
    rstan::rstan_options(boost_lib = "/usr/include")
  }
  found <- brm(
    as.formula(request$formula), request$table,
    seed = request$seed, chains = request$chains, iter = request$tune + request$draws,
    warmup = request$tune, cores = parallel::detectCores(), refresh = 0, silent = 2
  )
  draws <- as.array(found)
  # sd_g__x for an SD, cor_g__x__z with the coefficient that the model names first in front.
  covariance <- function(draws, i, j) {
    group <- request$group
    sd <- function(k) draws[, , sprintf("sd_%s__%s", group, request$random[k])]
    if (i == j) return(sd(i)^2)
    corr <- sprintf("cor_%s__%s__%s", group, request$random[j], request$random[i])
    draws[, , corr] * sd(i) * sd(j)
  }
  divergences <- sum(subset(nuts_params(found), Parameter == "divergent__")$Value)
  notes <- if (divergences) sprintf("%d divergences", divergences)
  arrange_draws(request, draws, paste0("b_", request$fixed), covariance, "sigma", notes)
}

serve("brms", "brms", fit)
