# The optimum of lme4's own deviance function, to the last digits that it carries.

library(lme4)

STARTS <- 16
# The deviance carries about 12 digits. Derivatives are taken in units of the curvature, where
# steps from 0.1 down to 0.0125 leave an error of 1e-10 of a standard error.
RICHARDSON <- list(eps = 0.1, d = 0, r = 4, v = 2, zero.tol = 1e-5)

# An "optimiser" for lmer that stays where it starts: the optimum was found before.
stay <- function(fn, par, lower, upper, control) {
  list(par = par, fval = fn(par), convergence = 0, message = "given", feval = 1)
}

deviance_function <- function(formula, table, reml) {
  parsed <- lFormula(as.formula(formula), table, REML = reml)
  list(parsed = parsed, fn = do.call(mkLmerDevfun, parsed))
}

# theta at the smallest deviance from many starts, boundary directions set to exactly 0, and
# then Newton steps; with the gradient that is left.
find_optimum <- function(fn, parsed, seed) {
  lower <- environment(fn)$lower
  k <- length(lower)
  size <- column_sizes(parsed)
  set.seed(seed)
  starts <- lapply(seq_len(STARTS), function(i) {
    if (i == 1) return(parsed$reTrms$theta / size)
    ifelse(lower == 0, exp(rnorm(k)), rnorm(k)) / size
  })
  found <- lapply(starts, minimise, fn = fn, lower = lower, size = size)
  values <- vapply(found, `[[`, 0, "value")
  best <- found[[which.min(values)]]
  best <- set_boundary(fn, best, lower, size)
  free <- !(lower == 0 & best$theta == 0)
  best <- polish(fn, best, free, size)
  best$reached <- sum(values - best$value < 1e-6)
  best
}

# One pass finds the region, the second starts afresh there with a small trust region.
minimise <- function(theta, fn, lower, size) {
  scaled <- function(z) fn(z / size)
  z <- theta * size
  for (radius in c(0.2, 0.02, 0.002)) {
    z <- minqa::bobyqa(
      z, scaled, lower = lower, upper = rep(Inf, length(z)),
      control = list(rhobeg = radius, rhoend = radius * 1e-7, maxfun = 20000)
    )$par
  }
  list(theta = z / size, value = scaled(z))
}

set_boundary <- function(fn, best, lower, size) {
  for (k in which(lower == 0 & best$theta * size < 0.05)) {
    others <- setdiff(seq_along(lower), k)
    pinned <- function(theta) { full <- best$theta; full[others] <- theta; full[k] <- 0; fn(full) }
    candidate <- if (length(others) == 0) list(theta = numeric(0), value = fn(0)) else
      minimise(best$theta[others], pinned, lower[others], size[others])
    if (candidate$value <= best$value + 1e-8) {
      best$theta[others] <- candidate$theta
      best$theta[k] <- 0
      best$value <- candidate$value
    }
  }
  best
}

polish <- function(fn, best, free, size) {
  best$gradient <- best$scaled_gradient <- 0
  if (!any(free)) return(best)
  scale <- 1 / size[free]
  at <- function(origin, scale) function(z) {
    theta <- origin
    theta[free] <- theta[free] + scale * z
    fn(theta)
  }
  zero <- numeric(sum(free))
  for (i in 1:3) {
    curvature <- diag(as.matrix(numDeriv::hessian(at(best$theta, scale), zero,
                                                  method.args = RICHARDSON)))
    scale <- scale * sqrt(2 / pmin(pmax(curvature, 1e-2), 1e8))
  }
  slope <- function(theta) numDeriv::grad(at(theta, scale), zero, method.args = RICHARDSON)
  g <- slope(best$theta)
  for (i in 1:8) {
    H <- numDeriv::hessian(at(best$theta, scale), zero, method.args = RICHARDSON)
    parts <- eigen((H + t(H)) / 2, symmetric = TRUE)
    keep <- parts$values > 1e-6 * max(parts$values)
    basis <- parts$vectors[, keep, drop = FALSE]
    theta <- best$theta
    theta[free] <- theta[free] - scale * drop(basis %*% (crossprod(basis, g) / parts$values[keep]))
    moved <- slope(theta)
    if (max(abs(moved)) >= max(abs(g)) || fn(theta) > best$value + 1e-8) break
    best$theta <- theta
    best$value <- fn(theta)
    g <- moved
  }
  best$scaled_gradient <- max(abs(g))
  best$gradient <- max(abs(g / scale))
  best
}

# Root mean square of the Z column that each element of theta multiplies (its row of Lambda).
column_sizes <- function(parsed) {
  Z <- Matrix::t(parsed$reTrms$Zt)
  sizes <- numeric(0)
  first <- 0
  for (i in seq_along(parsed$reTrms$cnms)) {
    q <- length(parsed$reTrms$cnms[[i]])
    levels <- nlevels(parsed$reTrms$flist[[attr(parsed$reTrms$flist, "assign")[i]]])
    block <- Z[, first + seq_len(q * levels), drop = FALSE]
    rms <- sqrt(vapply(seq_len(q), function(k) sum(block[, seq(k, q * levels, q)]^2), 0) / nrow(Z))
    sizes <- c(sizes, rms[row(diag(q))[lower.tri(diag(q), diag = TRUE)]])
    first <- first + q * levels
  }
  sizes
}

# An lmer fit whose call can be evaluated again, as lmerTest and pbkrtest do.
fit_at <- function(formula, table, reml, theta) {
  space <- new.env(parent = globalenv())
  space$formula <- as.formula(formula, env = space)
  space$table <- table
  space$reml <- reml
  space$theta <- theta
  space$control <- lmerControl(
    optimizer = "stay", restart_edge = FALSE, boundary.tol = 0, calc.derivs = FALSE,
    # Read by profile() only; it cannot be told there, where lme4 1.1-31 takes one setting at most.
    optCtrl = list(rhoend = 1e-7, maxfun = 20000)
  )
  fit <- eval(
    quote(lme4::lmer(formula, data = table, REML = reml, start = theta, control = control)), space
  )
  stopifnot(all(getME(fit, "theta") == theta))
  fit
}
