# lme4: lmer(formula, data, REML = TRUE), its default optimiser nloptwrap (BOBYQA of NLopt), or the
# BOBYQA of minqa that ?convergence names. Source: Bates, Maechler, Bolker & Walker (2015), Journal
# of Statistical Software 67(1); ?lmerControl.
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "contract.R"))

fit <- function(request) {
  optimizer <- if (request$variant == "default") "nloptwrap" else request$variant
  found <- lme4::lmer(
    as.formula(request$formula), request$table,
    REML = TRUE, control = lme4::lmerControl(optimizer = optimizer)
  )
  conv <- found@optinfo$conv
  list(
    beta = unname(lme4::fixef(found)), beta_se = unname(sqrt(diag(as.matrix(vcov(found))))),
    g = place(lme4::VarCorr(found), request), sigma2 = sigma(found)^2,
    loglik = as.numeric(logLik(found)),
    converged = conv$opt == 0 && length(setdiff(names(conv$lme4), "messages")) == 0,
    notes = c(conv$lme4$messages, if (lme4::isSingular(found)) "singular")
  )
}

serve("lme4", "lme4", fit)
