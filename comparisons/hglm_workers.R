# Fits one data set by lme4's glmer with some number of nodes, or by glmmTMB, and prints seconds and
# estimates as JSON.
# Run as: Rscript hglm_workers.R PROGRAM DATA TABLE.csv NODES RUNS
arguments <- commandArgs(trailingOnly = TRUE)
program <- arguments[1]
suppressMessages(library(program, character.only = TRUE))
data <- arguments[2]
table <- read.csv(arguments[3])
nodes <- as.integer(arguments[4])
runs <- as.integer(arguments[5])
formulas <- list(
  contraception = use ~ urban + age + livch + (1 | district),
  toenail = y ~ treatment * time + (1 | patientID),
  cbpp = cbind(incidence, size - incidence) ~ period + (1 | herd),
  verb_agg = y ~ Anger + Gender + btype + situ + (1 | id) + (1 | item),
  grouseticks = TICKS ~ YEAR + h + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)
)
if (data == "cbpp") table$period <- factor(table$period)
if (data == "grouseticks") {
  for (name in c("YEAR", "BROOD", "INDEX", "LOCATION")) table[[name]] <- factor(table[[name]])
}
law <- if (data == "grouseticks") poisson else binomial
fit_tmb <- function() {
  fit <- glmmTMB(formulas[[data]], table, family = law)
  spread <- VarCorr(fit)$cond
  most <- which.max(sapply(names(spread), function(name) length(unique(table[[name]]))))
  group <- spread[[most]]
  list(
    loglik = as.numeric(logLik(fit)), beta = unname(fixef(fit)$cond),
    sd = unname(attr(group, "stddev"))[1]
  )
}
fit_once <- function() {
  fit <- glmer(formulas[[data]], table, family = law, nAGQ = nodes)
  constant <- 0
  if (data == "cbpp" && nodes > 1) {
    # With several nodes lme4's log-likelihood is that above the saturated model.
    share <- table$incidence / table$size
    constant <- sum(dbinom(table$incidence, table$size, share, log = TRUE))
  }
  list(
    loglik = as.numeric(logLik(fit)) + constant, beta = unname(fixef(fit)),
    sd = unname(getME(fit, "theta"))[1]
  )
}
seconds <- c()
for (run in seq_len(runs)) {
  start <- proc.time()[["elapsed"]]
  fit_now <- if (program == "glmmTMB") fit_tmb else fit_once
  found <- suppressMessages(suppressWarnings(fit_now()))
  seconds <- c(seconds, proc.time()[["elapsed"]] - start)
}
version <- as.character(packageVersion(program))
show <- function(values) paste0("[", paste(format(values, digits = 12), collapse = ", "), "]")
cat(sprintf(
  '{"version": "%s", "seconds": %s, "loglik": %.10f, "beta": %s, "sd": %.10f}\n',
  version, show(seconds), found$loglik, show(found$beta), found$sd
))
