# Writes pseudo.json: glmmTMB maximises sum w log f(y | u) + log f(u), which of a Gaussian response is the
# pseudo-likelihood with weights of rows and none of schools. Usage: Rscript pseudo.R pseudo.json
suppressMessages({library(glmmTMB); library(jsonlite)})
script <- sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE))
root <- normalizePath(file.path(dirname(script), "..", "..", ".."))
rows <- read.csv(gzfile(file.path(root, "bhlm", "sources", "data", "pisa_nz.csv.gz")))
rows <- rows[!is.na(rows$OPENPS) & !is.na(rows$PCGIRLS), ]
rows$w <- rows$W_FSTUWT / rows$W_FSCHWT
rows$size <- rows$w * ave(rows$w, rows$SCHOOLID, FUN = length) / ave(rows$w, rows$SCHOOLID, FUN = sum)
rows$sex <- rows$ST04Q01
formulas <- c(null = PV1MATH ~ 1 + (1 | SCHOOLID), levels = PV1MATH ~ OPENPS + PCGIRLS + (1 | SCHOOLID),
              slope = PV1MATH ~ OPENPS + (OPENPS | SCHOOLID),
              nested = PV1MATH ~ OPENPS + (1 | SCHOOLID / sex))
one <- function(formula, weights) {
  rows$own <- rows[[weights]]
  fit <- glmmTMB(formula, rows, weights = own, control = glmmTMBControl(
    optCtrl = list(iter.max = 1e4, eval.max = 1e4, rel.tol = 1e-14, x.tol = 1e-14)))
  if (is.na(logLik(fit))) return(NULL)  # a search that failed: its Hessian is not positive definite
  g <- VarCorr(fit)$cond
  list(loglik = -fit$fit$objective, beta = unname(fixef(fit)$cond), sigma2 = sigma(fit)^2,
       g = lapply(g, function(each) unclass(matrix(each, nrow(each)))))
}
found <- list(glmmTMB = as.character(packageVersion("glmmTMB")))
for (weights in c("w", "size")) for (name in names(formulas))
  found[[paste(name, weights)]] <- one(formulas[[name]], weights)
writeLines(toJSON(found, digits = I(15), auto_unbox = TRUE, pretty = TRUE), commandArgs(TRUE)[1])
