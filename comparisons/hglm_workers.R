# Fits one data set by lme4's glmer with some number of nodes and prints seconds and estimates as JSON.
# Run as: Rscript hglm_workers.R DATA TABLE.csv NODES RUNS
arguments <- commandArgs(trailingOnly = TRUE)
suppressMessages(library(lme4))
data <- arguments[1]
table <- read.csv(arguments[2])
nodes <- as.integer(arguments[3])
runs <- as.integer(arguments[4])
fit_once <- function() {
  if (data == "cbpp") {
    table$period <- factor(table$period)
    fit <- glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), table,
      family = binomial, nAGQ = nodes
    )
    # With several nodes lme4's log-likelihood is that above the saturated model.
    share <- table$incidence / table$size
    saturated <- sum(dbinom(table$incidence, table$size, share, log = TRUE))
    constant <- if (nodes > 1) saturated else 0
  } else if (data == "toenail") {
    fit <- glmer(y ~ treatment * time + (1 | patientID), table, family = binomial, nAGQ = nodes)
    constant <- 0
  } else {
    fit <- glmer(use ~ urban + age + livch + (1 | district), table, family = binomial, nAGQ = nodes)
    constant <- 0
  }
  list(
    loglik = as.numeric(logLik(fit)) + constant, beta = unname(fixef(fit)),
    sd = unname(getME(fit, "theta"))
  )
}
seconds <- c()
for (run in seq_len(runs)) {
  start <- proc.time()[["elapsed"]]
  found <- suppressMessages(suppressWarnings(fit_once()))
  seconds <- c(seconds, proc.time()[["elapsed"]] - start)
}
version <- as.character(packageVersion("lme4"))
show <- function(values) paste0("[", paste(format(values, digits = 12), collapse = ", "), "]")
cat(sprintf(
  '{"version": "%s", "seconds": %s, "loglik": %.10f, "beta": %s, "sd": %.10f}\n',
  version, show(seconds), found$loglik, show(found$beta), found$sd
))
