# Rscript comparisons/level_cases.R FOLDER [NAME ...]: fits nested and crossed data sets by lme4 (and by nlme
# where a model of it exists), and writes the tables and the log-likelihoods to FOLDER.
suppressMessages({
  library(lme4)
  library(nlme)
  library(mlmRev)
})
folder <- commandArgs(TRUE)[1]
data("Produc", package = "plm")
data("carrots", package = "lmerTest")
data("ham", package = "lmerTest")
data("TVbo", package = "lmerTest")
rows <- function(name, package) get(data(list = name, package = package, envir = environment()))

flat <- function(seed, crossed) {
  # No variance of schools (of items) beyond what classes (subjects) and rows leave of it.
  set.seed(seed)
  one <- rep(1:8, each = 40)
  two <- if (crossed) rep(1:10, 32) else rep(1:32, each = 10)
  y <- rnorm(32)[if (crossed) 1 else two] + rnorm(10)[if (crossed) two else 1] + rnorm(320)
  data.frame(y = y, x = rnorm(320), one = one, two = two)
}
Produc$lgsp <- log(Produc$gsp)
for (name in c("pc", "emp", "hwy", "water", "util")) Produc[[paste0("l", name)]] <- log(Produc[[name]])
ticks <- transform(grouseticks, logticks = log(TICKS + 1), year = paste0("y", YEAR))
fruits <- transform(Arabidopsis, logfruits = log(total.fruits + 1), high = as.numeric(nutrient > 1))
pixels <- as.data.frame(rows("Pixel", "nlme"))
wafers <- as.data.frame(rows("Wafer", "nlme"))
tv <- transform(TVbo, y = Sharpnessofmovement)
cases <- list(
  pastes = list(Pastes, strength ~ 1 + (1 | batch/cask), ~ 1 | batch/cask),
  penicillin = list(Penicillin, diameter ~ 1 + (1 | plate) + (1 | sample)),
  egsingle = list(egsingle, math ~ year + (year | schoolid) + (year | childid)),
  productivity = list(Produc,
    lgsp ~ lpc + lemp + lhwy + lwater + lutil + unemp + (1 | region/state), ~ 1 | region/state),
  "productivity slopes" = list(Produc,
    lgsp ~ lpc + lemp + lhwy + lwater + lutil + unemp + (0 + unemp | region) + (1 | region) +
      (1 | state)),
  oats = list(as.data.frame(rows("Oats", "nlme")), yield ~ nitro + (1 | Block/Variety),
    ~ 1 | Block/Variety),
  pixel = list(pixels, pixel ~ day + (day | Dog) + (1 | Dog:Side),
    list(Dog = ~day, Side = ~1)),
  machines = list(as.data.frame(rows("Machines", "nlme")),
    score ~ Machine + (1 | Worker/Machine), ~ 1 | Worker/Machine),
  wafer = list(wafers, current ~ voltage + (voltage | Wafer) + (1 | Wafer:Site),
    list(Wafer = ~voltage, Site = ~1)),
  glucose = list(as.data.frame(rows("Glucose2", "nlme")), glucose ~ Time + (1 | Subject/Date),
    ~ 1 | Subject/Date),
  cake = list(cake, angle ~ temp + (1 | replicate) + (1 | recipe:replicate)),
  scotland = list(ScotsSec, attain ~ verbal + sex + (1 | primary) + (verbal | second)),
  chemistry = list(Chem97, score ~ gcsecnt + (1 | lea/school), ~ 1 | lea/school),
  ticks = list(ticks, logticks ~ year + cHEIGHT + (1 | BROOD) + (1 | LOCATION)),
  arabidopsis = list(fruits, logfruits ~ high + amd + (high | gen) + (1 | popu) + (1 | rack)),
  carrots = list(carrots, Preference ~ sens2 + (sens2 | Consumer) + (1 | Product)),
  ham = list(ham, Informed.liking ~ Information + (1 | Consumer) + (1 | Product)),
  television = list(tv, y ~ Repeat + (1 | Assessor) + (1 | TVset) + (1 | Assessor:Picture)),
  "flat nested" = list(flat(1, FALSE), y ~ x + (x | one) + (1 | two), NULL),
  "flat crossed" = list(flat(2, TRUE), y ~ x + (1 | one) + (x | two), NULL)
)
text <- function(formula) paste(trimws(deparse(formula, width.cutoff = 500)), collapse = " ")
lines <- character()
asked <- commandArgs(TRUE)[-1]
if (length(asked)) cases <- cases[asked]
for (name in names(cases)) {
  case <- cases[[name]]
  formula <- case[[2]]
  table <- na.omit(as.data.frame(case[[1]])[all.vars(formula)])
  path <- file.path(folder, paste0(gsub(" ", "_", name), ".csv"))
  write.csv(table, path, row.names = FALSE)
  for (reml in c(TRUE, FALSE)) {
    best <- -Inf
    for (optimizer in c("bobyqa", "nloptwrap")) {
      fit <- suppressMessages(suppressWarnings(
        lmer(formula, table, REML = reml, control = lmerControl(optimizer = optimizer))))
      best <- max(best, as.numeric(logLik(fit)))
    }
    theirs <- NA
    if (length(case) > 2 && !is.null(case[[3]])) {
      theirs <- tryCatch(as.numeric(logLik(lme(nobars(formula), table, random = case[[3]],
        method = if (reml) "REML" else "ML"))), error = function(e) NA)
    }
    lines <- c(lines, sprintf('{"name": "%s", "formula": "%s", "method": "%s", "file": "%s", "lme4": %.12g, "nlme": %s}',
      name, text(formula), if (reml) "reml" else "ml", path, best,
      if (is.na(theirs)) "null" else sprintf("%.12g", theirs)))
  }
}
writeLines(lines, file.path(folder, "cases.jsonl"))
