# Fits of models with several factors by lme4's glmer, nAGQ = 1 (Laplace): laplace_lme4.json.
# Run as: Rscript make_reference.R, in this folder; it also writes the two tables that bhlm does not ship.
suppressMessages(library(lme4))
data(VerbAgg, grouseticks, cbpp)
verbs <- data.frame(
  y = as.integer(VerbAgg$r2 == "Y"), VerbAgg[c("Anger", "Gender", "btype", "situ", "id", "item")]
)
ticks <- grouseticks
ticks$h <- ticks$HEIGHT - 462
ticks <- ticks[c("TICKS", "YEAR", "h", "BROOD", "INDEX", "LOCATION")]
cbpp$obs <- seq_len(nrow(cbpp))
write.csv(verbs, gzfile("verb_agg.csv.gz"), row.names = FALSE, quote = FALSE)
write.csv(ticks, "grouseticks.csv", row.names = FALSE, quote = FALSE)
control <- glmerControl(
  optimizer = "bobyqa", optCtrl = list(maxfun = 1e6, rhoend = 1e-10), tolPwrss = 1e-13
)
fit <- function(formula, table, family) glmer(formula, table, family = family, control = control)
fits <- list(
  verbs = fit(y ~ Anger + Gender + btype + situ + (1 | id) + (1 | item), verbs, binomial),
  slopes = fit(y ~ btype + situ + (situ | id) + (1 | item), verbs, binomial),
  ticks = fit(TICKS ~ YEAR + h + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION), ticks, poisson),
  cbpp = fit(
    cbind(incidence, size - incidence) ~ period + (1 | herd) + (1 | obs), cbpp, binomial
  ),
  crossed = fit(
    cbind(incidence, size - incidence) ~ 1 + (1 | period) + (1 | herd), cbpp, binomial
  )
)
numbers <- function(values) paste0("[", paste(sprintf("%.10g", values), collapse = ", "), "]")
lines <- c()
for (name in names(fits)) {
  found <- fits[[name]]
  spread <- as.data.frame(VarCorr(found), order = "lower.tri")
  effects <- ranef(found, condVar = TRUE)
  first <- names(effects)[1]
  sds <- sqrt(apply(attr(effects[[first]], "postVar"), 3, function(each) each[1, 1]))
  lines <- c(lines, sprintf(
    paste0(
      '"%s": {"loglik": %.9f, "beta": %s, "se": %s, "groups": [%s], "sdcor": %s,\n',
      '  "factor": "%s", "modes": %s, "sds": %s}'
    ),
    name, as.numeric(logLik(found)), numbers(fixef(found)),
    numbers(sqrt(diag(as.matrix(vcov(found))))),
    paste0('"', spread$grp, '"', collapse = ", "), numbers(spread$sdcor), first,
    numbers(head(effects[[first]][[1]], 5)), numbers(head(sds, 5))
  ))
}
writeLines(paste0("{\n", paste(lines, collapse = ",\n"), "\n}"), "laplace_lme4.json")
