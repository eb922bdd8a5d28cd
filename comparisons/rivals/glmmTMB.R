# glmmTMB: glmmTMB(formula, data, REML = TRUE), Gaussian by default. Source: Brooks et al. (2017),
# The R Journal 9(2), 378-400; ?glmmTMB.
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "contract.R"))

fit <- function(request) {
  found <- glmmTMB::glmmTMB(as.formula(request$formula), request$table, REML = TRUE)
  list(
    beta = unname(glmmTMB::fixef(found)$cond), beta_se = unname(sqrt(diag(vcov(found)$cond))),
    g = place(glmmTMB::VarCorr(found)$cond, request), sigma2 = sigma(found)^2,
    loglik = as.numeric(logLik(found)),
    converged = found$fit$convergence == 0 && isTRUE(found$sdr$pdHess), notes = NULL
  )
}

serve("glmmTMB", "glmmTMB", fit)
