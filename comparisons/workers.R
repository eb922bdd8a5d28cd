# Fits y ~ x + (x | g) by REML with lme4 or nlme and prints seconds and estimates as JSON.
# Run as: Rscript workers.R PROGRAM TABLE.csv RUNS
arguments <- commandArgs(trailingOnly = TRUE)
program <- arguments[1]
table <- read.csv(arguments[2])
table$g <- factor(table$g)
runs <- as.integer(arguments[3])

if (program == "lme4") {
  suppressMessages(library(lme4))
  fit_once <- function(data) {
    fit <- lmer(y ~ x + (x | g), data, REML = TRUE)
    rows <- coef(summary(fit))
    list(loglik = as.numeric(logLik(fit)), beta = unname(rows[, 1]), se = unname(rows[, 2]))
  }
} else {
  suppressMessages(library(nlme))
  fit_once <- function(data) {
    fit <- lme(y ~ x, data, random = ~ x | g, method = "REML")
    rows <- summary(fit)$tTable
    list(loglik = as.numeric(logLik(fit)), beta = unname(rows[, 1]), se = unname(rows[, 2]))
  }
}
small <- head(table, 2000)
small$g <- factor(seq_len(nrow(small)) %% 50)
invisible(try(fit_once(small), silent = TRUE))
status <- function(field) {
  line <- grep(field, readLines("/proc/self/status"), value = TRUE)
  as.numeric(sub("[^0-9]*([0-9]+).*", "\\1", line)) / 1024
}
invisible(gc())
writeLines("5", "/proc/self/clear_refs")
before <- status("VmRSS")
seconds <- numeric(runs)
for (i in seq_len(runs)) {
  start <- proc.time()[["elapsed"]]
  result <- fit_once(table)
  seconds[i] <- proc.time()[["elapsed"]] - start
}
cat(jsonlite::toJSON(c(result, list(
  version = as.character(packageVersion(program)), seconds = seconds, peak_mb = status("VmHWM"), before_mb = before
)), auto_unbox = TRUE, digits = 17))
