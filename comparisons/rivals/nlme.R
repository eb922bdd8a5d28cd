# nlme: lme(fixed, data, random, method = "REML"), its default optimiser nlminb, or the variant
# optim of ?lmeControl. Source: Pinheiro & Bates (2000), Mixed-Effects Models in S and S-PLUS; ?lme.
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "contract.R"))

fit <- function(request) {
  if (length(request$blocks) > 1) stop("independent blocks are not asked of nlme here")
  optimizer <- if (request$variant == "default") "nlminb" else request$variant
  random <- as.formula(paste("~", write_terms(request$random), "|", request$group))
  # The call keeps the formula's name, so that it must be the formula itself.
  found <- do.call(nlme::lme, list(
    request$fixed_formula, request$table,
    random = random, method = "REML", control = nlme::lmeControl(opt = optimizer)
  ))
  list(
    beta = unname(nlme::fixef(found)), beta_se = unname(sqrt(diag(found$varFix))),
    g = place(list(unclass(nlme::getVarCov(found))), request), sigma2 = found$sigma^2,
    loglik = as.numeric(logLik(found)), converged = TRUE, notes = NULL # it stops if it fails
  )
}

serve("nlme", "nlme", fit)
