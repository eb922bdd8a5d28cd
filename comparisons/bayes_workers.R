# Samples y ~ x + (x | g) with rstanarm, 4 chains of 1000 + 1000; prints seconds and draws as JSON.
# Run as: Rscript bayes_workers.R TABLE.csv DRAWS.csv
start <- proc.time()[["elapsed"]]
arguments <- commandArgs(trailingOnly = TRUE)
suppressMessages(library(rstanarm))
table <- read.csv(arguments[1])
table$g <- factor(table$g)
options(mc.cores = 2)
fit <- stan_lmer(y ~ x + (x | g), table, seed = 1, refresh = 0)
invisible(summary(fit))
seconds <- proc.time()[["elapsed"]] - start
g <- function(a, b) sprintf("Sigma[g:%s,%s]", a, b)
names <- c("(Intercept)", "x", g("(Intercept)", "(Intercept)"), g("x", "(Intercept)"), g("x", "x"), "sigma")
draws <- as.array(fit)[, , names]
long <- data.frame(
  chain = rep(seq_len(dim(draws)[2]), each = dim(draws)[1]),
  matrix(draws, ncol = length(names))
)
write.csv(long, arguments[2], row.names = FALSE)
cat(jsonlite::toJSON(list(
  version = as.character(packageVersion("rstanarm")), first = seconds
), auto_unbox = TRUE, digits = 17))
