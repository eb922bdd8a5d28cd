# The data sets of several grouping factors, from the R packages that carry them, as CSV files.
#     Rscript data.R FOLDER
# gzip -9 -n makes .csv.gz of the large ones. `productivity` are the logarithms of plm's Produc as
# Stata holds them, in single precision.

folder <- commandArgs(TRUE)[1]
take <- function(name, package) {
  place <- new.env()
  data(list = name, package = package, envir = place)
  place[[name]]
}
write <- function(table, name) {
  write.csv(table, file.path(folder, paste0(name, ".csv")), row.names = FALSE, quote = FALSE)
}
as_float <- function(x) {
  path <- tempfile()
  on.exit(unlink(path))
  writeBin(x, path, size = 4)
  readBin(path, "double", length(x), size = 4)
}

raw <- take("Produc", "plm")
logs <- log(as.matrix(raw[c("gsp", "pc", "emp", "hwy", "water", "util")]))
colnames(logs) <- c("gsp", "private", "emp", "hwy", "water", "other")
floats <- as.data.frame(apply(cbind(logs, unemp = raw$unemp), 2, as_float))
write(cbind(raw[c("state", "region", "year")], floats), "productivity")
write(take("egsingle", "mlmRev"), "egsingle")
write(take("Chem97", "mlmRev")[c("lea", "school", "score", "gender", "age", "gcsescore")], "chem97")
write(take("ScotsSec", "mlmRev"), "scots_sec")
write(take("Pastes", "lme4")[c("strength", "batch", "cask")], "pastes")
write(take("Penicillin", "lme4"), "penicillin")
write(take("InstEval", "lme4")[c("s", "d", "dept", "service", "y")], "inst_eval")
