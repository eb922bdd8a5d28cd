# rstanarm: stan_lmer(formula, data), precompiled, with its default priors. Source:
# https://mc-stan.org/rstanarm/articles/glmer.html; ?stan_lmer.
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "contract.R"))

fit <- function(request) {
  suppressPackageStartupMessages(library(rstanarm))
  options(mc.cores = parallel::detectCores())
  found <- stan_lmer(
    as.formula(request$formula), request$table,
    seed = request$seed, chains = request$chains, iter = request$tune + request$draws,
    warmup = request$tune, refresh = 0
  )
  names <- r_names(request$random)
  covariance <- function(draws, i, j) {
    draws[, , sprintf("Sigma[%s:%s,%s]", request$group, names[i], names[j])]
  }
  divergences <- rstan::get_num_divergent(found$stanfit)
  notes <- if (divergences) sprintf("%d divergences", divergences)
  arrange_draws(request, as.array(found), r_names(request$fixed), covariance, "sigma", notes)
}

serve("rstanarm", "rstanarm", fit)
