# Writes survey.json: fits with known variances by metafor, run to its optimum, and with residual
# variances by stratum by nlme. Usage: Rscript survey.R survey.json
suppressMessages({library(metadat); library(metafor); library(nlme); library(jsonlite)})
tight <- list(threshold = 1e-14, maxiter = 1000)
expectancy <- dat.raudenbush1985
expectancy$contact <- pmin(expectancy$weeks, 3)
calendar <- dat.konstantopoulos2011
one <- function(data, mods, method) {
  fit <- rma(yi, vi, mods = mods, data = data, method = method, control = tight)
  at <- predict(fit)
  list(loglik = c(logLik(fit)), beta = c(fit$beta), se = fit$se, tau2 = fit$tau2,
       se_tau2 = fit$se.tau2, q = fit$QE, i2 = fit$I2, h2 = fit$H2,
       lower = at$pi.lb[1], upper = at$pi.ub[1],
       blup = c(blup(fit)$pred), blup_se = c(blup(fit)$se))
}
nested <- function(method) {
  fit <- rma.mv(yi, vi, random = ~ 1 | district/school, data = calendar, method = method,
                control = list(rel.tol = 1e-12, x.tol = 1e-9, iter.max = 1000, eval.max = 2000))
  list(loglik = c(logLik(fit)), beta = c(fit$beta), se = fit$se, sigma2 = fit$sigma2, q = fit$QE)
}
strata <- function(formula, random, by, data, method) {
  control <- lmeControl(msMaxIter = 500, tolerance = 1e-10, msTol = 1e-12, opt = "nlminb",
                        returnObject = TRUE, niterEM = 100)
  fit <- lme(formula, random = random, data = data, weights = varIdent(form = by),
             method = method, control = control)
  plain <- lme(formula, random = random, data = data, method = method, control = control)
  ratios <- coef(fit$modelStruct$varStruct, unconstrained = FALSE, allCoef = TRUE)
  list(loglik = c(logLik(fit)), plain = c(logLik(plain)), sigma = fit$sigma,
       ratios = as.list(ratios), beta = as.list(fixef(fit)), se = c(sqrt(diag(vcov(fit)))))
}
ortho <- as.data.frame(Orthodont)
weights <- as.data.frame(BodyWeight)
machines <- as.data.frame(Machines)
found <- list(
  metafor = as.character(packageVersion("metafor")), nlme = as.character(packageVersion("nlme")),
  expectancy_reml = one(expectancy, ~1, "REML"), expectancy_ml = one(expectancy, ~1, "ML"),
  contact_reml = one(expectancy, ~contact, "REML"),
  calendar_reml = one(calendar, ~1, "REML"), calendar_year = one(calendar, ~year, "REML"),
  nested_reml = nested("REML"), nested_ml = nested("ML"),
  orthodont_reml = strata(distance ~ Sex * I(age - 11), ~ I(age - 11) | Subject, ~ 1 | Sex, ortho,
                          "REML"),
  orthodont_ml = strata(distance ~ Sex * I(age - 11), ~ I(age - 11) | Subject, ~ 1 | Sex, ortho,
                        "ML"),
  body_weight = strata(weight ~ Time * factor(Diet), ~ 1 | Rat, ~ 1 | Diet, weights, "REML"),
  ergo = strata(effort ~ Type, ~ 1 | Subject, ~ 1 | Type, as.data.frame(ergoStool), "REML")
)
write_json(found, commandArgs(TRUE)[1], auto_unbox = TRUE, digits = 14, pretty = TRUE)
