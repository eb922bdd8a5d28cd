# Five plausible values of the pupils of HSB, fitted by lme4 and pooled by mitools and mitml.
#
#   Rscript tests/reference/imputations/make_reference.R > tests/reference/imputations/pooled.json
#
# pv_k = mathach + 3 sin(k i), i = 0, 1, ... being the number of the pupil's row, k = 1..5.
# Needs Debian's r-cran-lme4, r-cran-mitools, r-cran-mitml and r-cran-jsonlite.

needed <- c("lme4", "mitools", "mitml", "jsonlite")
for (package in needed) {
  if (!requireNamespace(package, quietly = TRUE)) {
    cat(sprintf("{\"missing\": \"%s\"}\n", package))
    quit(status = 0)
  }
}
suppressMessages(library(lme4))

script <- sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE))
root <- normalizePath(file.path(dirname(script), "..", "..", ".."))
pupils <- read.csv(file.path(root, "bhlm", "sources", "data", "hsb_students.csv"))
row <- seq_len(nrow(pupils)) - 1

fits <- lapply(1:5, function(k) {
  pupils$pv <- pupils$mathach + 3 * sin(k * row)
  lmer(pv ~ ses + female + minority + (1 | school), pupils,
       control = lmerControl(optCtrl = list(xtol_abs = 1e-12, ftol_abs = 1e-14)))
})
betas <- lapply(fits, fixef)
covs <- lapply(fits, function(fit) as.matrix(vcov(fit)))

mitools <- mitools::MIcombine(betas, covs)
qhat <- do.call(cbind, betas)
uhat <- array(unlist(covs), c(nrow(qhat), nrow(qhat), 5))
dimnames(uhat) <- list(rownames(qhat), rownames(qhat), NULL)

columns <- function(df.com) {
  table <- suppressWarnings(mitml::testEstimates(qhat = qhat, uhat = uhat, df.com = df.com))$estimates
  list(estimate = table[, 1], se = table[, 2], df = table[, 4], p = table[, 5], riv = table[, 6],
       fmi = table[, 7])
}
joint <- function(names, method, df.com = NULL) {
  arguments <- list(qhat = qhat, uhat = uhat, constraints = names, method = method)
  if (!is.null(df.com)) arguments$df.com <- df.com
  test <- do.call(mitml::testConstraints, arguments)$test
  list(F = test[1, 1], df = test[1, 2], ddf = test[1, 3], p = test[1, 4])
}
three <- c("ses", "female", "minority")
result <- list(
  versions = lapply(setNames(nm = needed), function(name) as.character(packageVersion(name))),
  betas = unname(t(qhat)), covs = unname(aperm(uhat, c(3, 1, 2))),
  residual_variances = sapply(fits, function(fit) sigma(fit)^2),
  school_variances = sapply(fits, function(fit) VarCorr(fit)$school[1]),
  mitools = list(estimate = unname(mitools$coefficients), variance = unname(mitools$variance),
                 df = unname(mitools$df), fmi = unname(mitools$missinfo)),
  mitml = lapply(columns(NULL), unname), mitml_30 = lapply(columns(30), unname),
  D1 = joint(three, "D1"), D1_two = joint(three[1:2], "D1"), D1_30 = joint(three, "D1", 30),
  D2 = joint(three, "D2"), D2_two = joint(three[1:2], "D2")
)
cat(jsonlite::toJSON(result, digits = I(17), auto_unbox = TRUE, pretty = TRUE), "\n")
