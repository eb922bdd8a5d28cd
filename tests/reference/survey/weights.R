# Writes weights.json: fitted values and scaled Pearson residuals of a fit with precision weights by
# lme4, run to its optimum. Usage: Rscript weights.R sleepstudy.csv weights.json
suppressMessages({library(lme4); library(jsonlite)})
table <- read.csv(commandArgs(TRUE)[1])
table$w <- 1 + table$Days %% 3
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-11, maxfun = 1e5))
fit <- lmer(Reaction ~ Days + (Days | Subject), table, weights = w, control = control)
write_json(
  list(lme4 = as.character(packageVersion("lme4")), loglik = c(logLik(fit)),
       fitted = unname(fitted(fit)), scaled = unname(residuals(fit, type = "pearson", scaled = TRUE)),
       population = unname(predict(fit, re.form = NA))),
  commandArgs(TRUE)[2], auto_unbox = TRUE, digits = 12
)
