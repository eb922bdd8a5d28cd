# What is stored of a fit. Everything comes from lme4, lmerTest, pbkrtest, clubSandwich or nlme,
# except the standard errors of variance components, which lme4 does not give.

GROUPS_SHOWN <- 10
MANY_GROUPS <- 30

describe_fit <- function(fit, optimum, group) {
  beta <- fixef(fit)
  components <- variance_components(fit, group)
  errors <- component_errors(fit, group)
  list(
    logLik = as.numeric(logLik(fit)),
    df = attr(logLik(fit), "df"),
    AIC = AIC(fit),
    BIC = BIC(fit),
    singular = isSingular(fit),
    optimum = list(
      theta = unname(getME(fit, "theta")),
      gradient = optimum$gradient,
      scaled_gradient = optimum$scaled_gradient,
      starts = STARTS,
      starts_that_reached_it = optimum$reached
    ),
    fixed = named(unname(beta), names(beta)),
    se = named(sqrt(diag(as.matrix(vcov(fit)))), names(beta)),
    vcov = unname(as.matrix(vcov(fit))),
    components = as.list(components),
    component_se = errors,
    scaled_components = as.list(scaled_components(fit, group)),
    satterthwaite = satterthwaite(fit),
    kenward_roger = if (isREML(fit)) attempt(kenward_roger(fit)),
    cr0 = attempt(robust(fit, "CR0")),
    cr2 = attempt(robust(fit, "CR2")),
    joint = joint_tests(fit),
    group_effects = group_effects(fit)
  )
}

named <- function(values, names) setNames(as.list(unname(values)), unquote(names))

# The value, or null with the message where the R package fails.
attempt <- function(expression) {
  tryCatch(
    suppressWarnings(suppressMessages(expression)),
    error = function(e) list(error = substr(gsub("\\s+", " ", conditionMessage(e)), 1, 120))
  )
}

# Pairs (term, i, j) of the elements of G, in the order var, cov, var, ... of each term.
elements <- function(fit) {
  names <- lapply(fit@cnms, unquote)
  do.call(rbind, lapply(seq_along(names), function(term) {
    q <- length(names[[term]])
    at <- which(upper.tri(diag(q), diag = TRUE), arr.ind = TRUE)
    data.frame(term = term, i = at[, 1], j = at[, 2],
               first = names[[term]][at[, 1]], second = names[[term]][at[, 2]])
  }))
}

variance_components <- function(fit, group) {
  e <- elements(fit)
  G <- lapply(VarCorr(fit), function(block) as.matrix(block))
  values <- mapply(function(term, i, j) G[[term]][i, j], e$term, e$i, e$j)
  c(setNames(values, component_names(e, group, c("var", "cov"))), "var(Residual)" = sigma(fit)^2)
}

component_names <- function(e, group, kinds) {
  ifelse(e$i == e$j, sprintf("%s(%s|%s)", kinds[1], e$first, group),
         sprintf("%s(%s,%s|%s)", kinds[2], e$first, e$second, group))
}

scaled_components <- function(fit, group) {
  e <- elements(fit)
  values <- mapply(function(term, i, j) {
    G <- as.matrix(VarCorr(fit)[[term]])
    if (i == j) sqrt(G[i, i]) else G[i, j] / sqrt(G[i, i] * G[j, j])
  }, e$term, e$i, e$j)
  values[is.nan(values)] <- NA
  c(setNames(values, component_names(e, group, c("sd", "corr"))), "sd(Residual)" = sigma(fit))
}

# Standard errors of the variance components from the observed information: the Hessian of
# minus twice the log-likelihood in (G, sigma2), beta profiled out, by lme4's own blocks.
component_errors <- function(fit, group) {
  if (isSingular(fit)) return(NULL)
  e <- elements(fit)
  estimate <- variance_components(fit, group)
  fn <- update(fit, devFunOnly = TRUE)
  space <- environment(fn)
  n <- nobs(fit)
  p <- length(fixef(fit))
  minus2 <- function(v) {
    s2 <- v[length(v)]
    theta <- unlist(lapply(unique(e$term), function(term) {
      G <- matrix(0, max(e$i[e$term == term]), max(e$i[e$term == term]))
      G[cbind(e$i, e$j)[e$term == term, , drop = FALSE]] <- v[seq_len(nrow(e))][e$term == term]
      L <- t(chol(Matrix::forceSymmetric(G, "U"))) / sqrt(s2)
      L[lower.tri(L, diag = TRUE)]
    }))
    fn(theta)
    value <- space$pp$ldL2() + (space$resp$wrss() + space$pp$sqrL(1)) / s2
    value + n * log(2 * pi * s2) + isREML(fit) * (space$pp$ldRX2() - p * log(2 * pi * s2))
  }
  scale <- c(abs(estimate[seq_len(nrow(e))]), estimate[length(estimate)]) * 1e-2
  off <- which(e$i != e$j)
  for (k in off) {
    own <- e$i == e$j & e$term == e$term[k]
    scale[k] <- sqrt(prod(estimate[which(own & e$i %in% c(e$i[k], e$j[k]))])) * 1e-2
  }
  # One standard error becomes the unit, in rounds from a small step. Larger steps than 0.04 lose
  # digits; smaller ones serve
  # where a step leaves the positive definite matrices and chol fails.
  errors <- function(largest) tryCatch({
    zero <- numeric(length(estimate))
    for (eps in c(0.5, min(0.04, largest), min(0.04, largest), largest)) {
      steps <- list(eps = eps, d = 0, r = 4, v = 2, zero.tol = 1e-5)
      H <- numDeriv::hessian(function(z) minus2(estimate + scale * z), zero, method.args = steps)
      scale <- scale * sqrt(diag(solve(H / 2)))
    }
    if (all(is.finite(scale))) as.list(setNames(scale, names(estimate)))
  }, error = function(e) NULL, warning = function(w) NULL)
  result <- NULL
  for (largest in c(0.04, 0.01, 0.003)) if (is.null(result)) result <- errors(largest)
  fn(getME(fit, "theta"))
  result
}

satterthwaite <- function(fit) {
  table <- coef(summary(suppressMessages(lmerTest::as_lmerModLmerTest(fit)), ddf = "Satterthwaite"))
  list(df = named(table[, "df"], rownames(table)),
       t = named(table[, "t value"], rownames(table)),
       p = named(table[, "Pr(>|t|)"], rownames(table)))
}

kenward_roger <- function(fit) {
  V0 <- vcov(fit)
  adjusted <- pbkrtest::vcovAdj(fit)
  p <- length(fixef(fit))
  se <- sqrt(diag(as.matrix(adjusted)))
  df <- vapply(seq_len(p), function(k) pbkrtest::Lb_ddf(diag(p)[k, ], V0, adjusted), 0)
  t <- fixef(fit) / se
  stopifnot(all(is.finite(se)), all(is.finite(df)))
  list(se = named(se, names(t)), df = named(df, names(t)), t = named(t, names(t)),
       p = named(2 * pt(-abs(t), df), names(t)), vcov = unname(as.matrix(adjusted)))
}

robust <- function(fit, type) {
  V <- clubSandwich::vcovCR(fit, type = type)
  table <- clubSandwich::coef_test(fit, vcov = V, test = c("Satterthwaite"))
  stopifnot(all(is.finite(table$SE)))
  list(se = named(table$SE, names(fixef(fit))), df = named(table$df_Satt, names(fixef(fit))),
       vcov = unname(as.matrix(V)))
}

# Each term of several columns, and all slopes at once.
joint_tests <- function(fit) {
  names <- unquote(names(fixef(fit)))
  terms <- attr(getME(fit, "X"), "assign")
  sets <- lapply(unique(terms[duplicated(terms)]), function(term) which(terms == term))
  slopes <- which(names != "Intercept")
  if (length(slopes) > 1 && !list(slopes) %in% sets) sets <- c(sets, list(slopes))
  lapply(sets, function(set) {
    L <- diag(length(names))[set, , drop = FALSE]
    list(
      hypothesis = I(names[set]),
      satterthwaite = attempt({
        test <- lmerTest::contestMD(lmerTest::as_lmerModLmerTest(fit), L, ddf = "Satterthwaite")
        list(F = test[["F value"]], ndf = test[["NumDF"]], ddf = test[["DenDF"]],
             p = test[["Pr(>F)"]])
      }),
      kenward_roger = if (isREML(fit)) attempt({
        test <- pbkrtest::KRmodcomp(fit, L)$stats
        stopifnot(is.finite(test$Fstat), is.finite(test$ddf))
        list(F = test$Fstat, ndf = test$ndf, ddf = test$ddf, scaling = test$F.scaling,
             p = test$p.value)
      })
    )
  })
}

# Conditional modes and their covariance given the parameters (beta known), by group.
group_effects <- function(fit) {
  levels <- levels(getME(fit, "flist")[[1]])
  q <- lengths(fit@cnms)
  names <- unquote(unlist(fit@cnms))
  first <- cumsum(c(0, q * length(levels)))
  b <- as.vector(getME(fit, "b"))
  V <- lme4:::condVar(fit)
  shown <- if (length(levels) > MANY_GROUPS) GROUPS_SHOWN else length(levels)
  effects <- ranef(fit, condVar = TRUE)[[1]]
  stopifnot(all(rownames(effects) == levels))
  out <- lapply(seq_len(shown), function(j) {
    at <- unlist(lapply(seq_along(q), function(i) first[i] + (j - 1) * q[i] + seq_len(q[i])))
    block <- unname(as.matrix(V[at, at]))
    if (length(q) == 1) {
      stopifnot(isTRUE(all.equal(block, unname(as.matrix(attr(effects, "postVar")[, , j])))))
    }
    stopifnot(isTRUE(all.equal(b[at], unname(unlist(effects[j, ])))))
    list(mode = setNames(as.list(b[at]), names), cov = block)
  })
  setNames(out, levels[seq_len(shown)])
}

# lme4 profiles SDs and correlations in a box. The box keeps G positive semidefinite for one or
# two correlated coefficients; with more, limits come out wrong without a warning (oxboys).
profile_intervals <- function(fit, group) {
  stopifnot(!isREML(fit))
  q <- max(lengths(fit@cnms))
  if (q > 2) stop("lme4's profile is not reliable for three or more correlated coefficients")
  if (q > 1 && isSingular(fit)) stop("lme4's profile is not reliable from a correlation of +-1")
  # Points 0.25 apart in zeta and a little beyond 1.96, joined by cubic splines.
  beyond <- pchisq(2.3^2, attr(logLik(fit), "df"), lower.tail = FALSE)
  messages <- character(0)
  limits <- withCallingHandlers(
    confint(profile(fit, signames = FALSE, delta = 0.25, maxpts = 100, alphamax = beyond,
                    devtol = 1e-6, optimizer = "bobyqa"), level = 0.95),
    warning = function(w) messages <<- c(messages, conditionMessage(w))
  )
  e <- elements(fit)
  expected <- ifelse(e$i == e$j, paste0("sd_", e$first), paste0("cor_", e$second, ".", e$first))
  expected <- c(sub("Intercept", "(Intercept)", paste0(expected, "|", group)), "sigma",
                sub("^Intercept$", "(Intercept)", unquote(names(fixef(fit)))))
  names <- c(component_names(e, group, c("sd", "corr")), "sd(Residual)",
             unquote(names(fixef(fit))))
  found <- gsub("`", "", rownames(limits), fixed = TRUE)
  at <- match(expected, found)
  stopifnot(!anyNA(at), length(at) == nrow(limits))
  intervals <- lapply(at, function(k) {
    bad <- any(endsWith(messages, paste("for", rownames(limits)[k]))) ||
      any(grepl(paste0("spline fit for ", rownames(limits)[k], ":"), messages, fixed = TRUE))
    if (bad) NULL else list(lower = unname(limits[k, 1]), upper = unname(limits[k, 2]))
  })
  list(intervals = setNames(intervals, names), warnings = I(unique(messages)))
}

# nlme on the same model, its columns under names that nlme accepts.
nlme_loglik <- function(formula, table, reml, group) {
  safe <- setNames(table, make.names(names(table)))
  fixed <- lme4::nobars(as.formula(formula))
  text <- paste(deparse(fixed, width.cutoff = 500), collapse = "")
  for (name in names(table)) text <- gsub(paste0("`", name, "`"), make.names(name), text, fixed = TRUE)
  blocks <- lapply(lme4::findbars(as.formula(formula)), function(bar) {
    part <- paste("~", paste(deparse(bar[[2]], width.cutoff = 500, backtick = TRUE), collapse = ""))
    for (name in names(table)) {
      part <- gsub(paste0("`", name, "`"), make.names(name), part, fixed = TRUE)
    }
    nlme::pdSymm(as.formula(part))
  })
  random <- if (length(blocks) == 1) blocks[[1]] else nlme::pdBlocked(blocks)
  random <- setNames(list(random), group)
  values <- vapply(c("nlminb", "optim"), function(opt) tryCatch({
    control <- nlme::lmeControl(opt = opt, maxIter = 500, msMaxIter = 500, msMaxEval = 2000,
                                niterEM = 100, msTol = 1e-10, tolerance = 1e-10, msVerbose = FALSE)
    fit <- suppressWarnings(nlme::lme(as.formula(text), data = safe, random = random,
                                      method = if (reml) "REML" else "ML", control = control))
    as.numeric(logLik(fit))
  }, error = function(e) NA_real_), 0)
  if (all(is.na(values))) NA else max(values, na.rm = TRUE)
}
