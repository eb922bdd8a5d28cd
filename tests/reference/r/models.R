# The data sets (written to data/*.csv from the R packages that carry them) and the models.

# Each entry returns a data frame whose columns are numbers or text, as in the source.
DATASETS <- list(
  dyestuff = function() take("Dyestuff", "lme4"),
  dyestuff2 = function() take("Dyestuff2", "lme4"),
  sleepstudy = function() take("sleepstudy", "lme4"),
  cake = function() {
    cake <- take("cake", "lme4")
    cake$batch <- paste0(cake$recipe, cake$replicate)
    cake[c("batch", "recipe", "temp", "angle")]
  },
  rail = function() take("Rail", "nlme"),
  orthodont = function() take("Orthodont", "nlme"),
  oxboys = function() take("Oxboys", "nlme")[c("Subject", "age", "height")],
  machines = function() take("Machines", "nlme"),
  body_weight = function() take("BodyWeight", "nlme"),
  ergo_stool = function() take("ergoStool", "nlme"),
  pixel = function() take("Pixel", "nlme")[c("Dog", "day", "pixel")],
  wafer = function() take("Wafer", "nlme")[c("Wafer", "voltage", "current")],
  igf = function() take("IGF", "nlme"),
  oats = function() take("Oats", "nlme"),
  muscle = function() take("Muscle", "nlme"),
  dialyzer = function() take("Dialyzer", "nlme")[c("Subject", "QB", "pressure", "rate")],
  tetracycline = function() take("Tetracycline1", "nlme"),
  rat_pup = function() take("RatPupWeight", "nlme"),
  chick_weight = function() take("ChickWeight", "datasets"),
  loblolly = function() take("Loblolly", "datasets"),
  ham = function() {
    ham <- take("ham", "lmerTest")
    names(ham)[names(ham) == "Informed.liking"] <- "liking"
    ham[c("Consumer", "Product", "Information", "liking")]
  },
  carrots = function() take("carrots", "lmerTest")[c("Consumer", "sens1", "sens2", "Preference")],
  exam = function() take("Exam", "mlmRev")[c("school", "normexam", "standLRT")],
  gcsemv = function() take("Gcsemv", "mlmRev")[c("school", "gender", "written", "course")],
  bdf = function() {
    bdf <- take("bdf", "nlme")[c("schoolNR", "langPOST", "IQ.ver.cen", "avg.IQ.ver.cen")]
    setNames(bdf, c("school", "language", "iq", "mean_iq"))
  }
)

model <- function(data, formula, reduced = NULL) {
  list(data = data, formula = formula, reduced = reduced)
}

# `reduced` leaves out the last random slope (or the last set of slopes of one factor).
MODELS <- list(
  dyestuff = model("dyestuff", "Yield ~ 1 + (1 | Batch)"),
  dyestuff2 = model("dyestuff2", "Yield ~ 1 + (1 | Batch)"),
  rail = model("rail", "travel ~ 1 + (1 | Rail)"),
  sleepstudy = model("sleepstudy", "Reaction ~ Days + (Days | Subject)", "(1 | Subject)"),
  sleepstudy_independent = model(
    "sleepstudy", "Reaction ~ Days + (1 | Subject) + (0 + Days | Subject)", "(1 | Subject)"
  ),
  orthodont = model("orthodont", "distance ~ age * Sex + (age | Subject)", "(1 | Subject)"),
  orthodont_independent = model(
    "orthodont", "distance ~ age * Sex + (1 | Subject) + (0 + age | Subject)", "(1 | Subject)"
  ),
  oxboys = model(
    "oxboys", "height ~ age + I(age**2) + (age + I(age**2) | Subject)", "(age | Subject)"
  ),
  machines = model("machines", "score ~ Machine + (Machine | Worker)", "(1 | Worker)"),
  machines_cell_means = model(
    "machines", "score ~ Machine + (0 + Machine | Worker)", "(1 | Worker)"
  ),
  body_weight = model("body_weight", "weight ~ Time * C(Diet) + (Time | Rat)", "(1 | Rat)"),
  chick_weight = model("chick_weight", "weight ~ Time * C(Diet) + (Time | Chick)", "(1 | Chick)"),
  ergo_stool = model("ergo_stool", "effort ~ Type + (1 | Subject)"),
  cake = model("cake", "angle ~ temp * recipe + (1 | batch)"),
  pixel = model("pixel", "pixel ~ day + I(day**2) + (day | Dog)", "(1 | Dog)"),
  loblolly = model("loblolly", "height ~ age + I(age**2) + (age | Seed)", "(1 | Seed)"),
  muscle = model("muscle", "length ~ log(conc) + (log(conc) | Strip)", "(1 | Strip)"),
  rat_pup = model("rat_pup", "weight ~ sex * Treatment + Lsize + (1 | Litter)"),
  rat_pup_slope = model(
    "rat_pup", "weight ~ sex * Treatment + Lsize + (sex | Litter)", "(1 | Litter)"
  ),
  ham = model("ham", "liking ~ C(Product) * C(Information) + (C(Product) | Consumer)",
              "(1 | Consumer)"),
  carrots = model(
    "carrots", "Preference ~ sens1 + sens2 + (sens1 + sens2 | Consumer)", "(sens1 | Consumer)"
  ),
  dialyzer = model(
    "dialyzer",
    paste(
      "rate ~ pressure + I(pressure**2) + I(pressure**3) + C(QB)",
      "+ (pressure + I(pressure**2) + I(pressure**3) | Subject)"
    ),
    "(pressure + I(pressure**2) | Subject)"
  ),
  wafer = model(
    "wafer", "current ~ voltage + I(voltage**2) + (voltage + I(voltage**2) | Wafer)",
    "(voltage | Wafer)"
  ),
  igf = model("igf", "conc ~ age + (age | Lot)", "(1 | Lot)"),
  igf_independent = model("igf", "conc ~ age + (1 | Lot) + (0 + age | Lot)", "(1 | Lot)"),
  oats = model("oats", "yield ~ nitro + Variety + (nitro | Block)", "(1 | Block)"),
  oats_independent = model(
    "oats", "yield ~ nitro + Variety + (1 | Block) + (0 + nitro | Block)", "(1 | Block)"
  ),
  tetracycline = model(
    "tetracycline", "conc ~ Time * Formulation + (Time | Subject)", "(1 | Subject)"
  ),
  exam = model("exam", "normexam ~ standLRT + (standLRT | school)", "(1 | school)"),
  gcsemv = model("gcsemv", "course ~ gender + (gender | school)", "(1 | school)"),
  gcsemv_written = model(
    "gcsemv", "written ~ gender + course + (course | school)", "(1 | school)"
  ),
  bdf = model("bdf", "language ~ iq + mean_iq + (iq | school)", "(1 | school)"),
  hsb_anova = model("hsb", "mathach ~ 1 + (1 | school)"),
  hsb_means_as_outcomes = model("hsb", "mathach ~ gm(ses) + (1 | school)"),
  hsb_random_coefficient = model(
    "hsb", "mathach ~ cwc(ses) + (cwc(ses) | school)", "(1 | school)"
  ),
  hsb_intercepts_and_slopes = model(
    "hsb",
    paste(
      "mathach ~ gm(ses) + sector + cwc(ses) + gm(ses):cwc(ses) + sector:cwc(ses)",
      "+ (cwc(ses) | school)"
    ),
    "(1 | school)"
  ),
  hsb_four_coefficients = model(
    "hsb",
    "mathach ~ cwc(ses) + minority + female + (cwc(ses) + minority + female | school)",
    "(cwc(ses) + minority | school)"
  )
)

# A data set as plain columns: factors become their labels.
take <- function(name, package) {
  space <- new.env()
  data(list = name, package = package, envir = space)
  table <- as.data.frame(space[[name]])
  class(table) <- "data.frame"
  for (column in names(table)) {
    if (is.factor(table[[column]])) table[[column]] <- trimws(as.character(table[[column]]))
  }
  table
}

write_datasets <- function(folder) {
  for (name in names(DATASETS)) {
    table <- DATASETS[[name]]()
    text <- vapply(table, is.character, logical(1))
    stopifnot(!any(grepl("[\",]", unlist(table[text]))))
    write.csv(table, file.path(folder, paste0(name, ".csv")), row.names = FALSE, quote = FALSE,
              na = "")
  }
}

read_dataset <- function(name, folder, package_data) {
  if (name != "hsb") return(read.csv(file.path(folder, paste0(name, ".csv")), na.strings = ""))
  pupils <- read.csv(file.path(package_data, "hsb_students.csv"))
  schools <- read.csv(file.path(package_data, "hsb_schools.csv"))
  cbind(pupils, schools[match(pupils$school, schools$school), -1])
}

CALL <- "\\b((cwc|gm|C|I|log)\\([^()]*\\))"

# The formula and the table that R fits: every call of the formula is a column by its own name,
# and the levels of a factor are spelled "[B]", so that R's coefficient names are bhlm's.
prepare <- function(spec, folder, package_data) {
  table <- read_dataset(spec$data, folder, package_data)
  calls <- unique(regmatches(spec$formula, gregexpr(CALL, spec$formula, perl = TRUE))[[1]])
  group <- trimws(sub(".*\\|([^)]*)\\).*", "\\1", spec$formula))
  used <- intersect(all.vars(as.formula(spec$formula)), names(table))
  table <- table[complete.cases(table[used]), used]
  columns <- list(
    cwc = function(x) x - ave(x, table[[group]]),
    gm = function(x) ave(x, table[[group]]),
    C = function(x) bracket(x)
  )
  for (column in setdiff(used, group)) {
    if (is.character(table[[column]])) table[[column]] <- bracket(table[[column]])
  }
  for (call in calls) {
    table[[call]] <- as.vector(eval(parse(text = call)[[1]], c(as.list(table), columns)))
    if (startsWith(call, "C(")) table[[call]] <- bracket(table[[sub("^C\\((.*)\\)$", "\\1", call)]])
  }
  table[[group]] <- factor(table[[group]])
  list(
    table = table,
    group = group,
    formula = quote_calls(spec$formula),
    reduced = if (!is.null(spec$reduced)) {
      fixed <- trimws(sub("\\+\\s*\\([^()]*(\\([^()]*\\)[^()]*)*\\|.*$", "", spec$formula))
      quote_calls(paste(fixed, "+", spec$reduced))
    }
  )
}

quote_calls <- function(formula) gsub(CALL, "`\\1`", formula, perl = TRUE)

# Levels in plain order of their characters (or numbers), the first being the reference.
bracket <- function(x) {
  levels <- sort(unique(x), method = "radix")
  factor(x, levels = levels, labels = paste0("[", levels, "]"))
}

unquote <- function(names) {
  names <- gsub("`", "", names, fixed = TRUE)
  ifelse(names == "(Intercept)", "Intercept", names)
}
