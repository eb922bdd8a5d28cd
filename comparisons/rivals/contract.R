# What every R adapter speaks: a request comes in, one JSON object goes out; see contract.py.
#
# An adapter is a function of a request that returns a list: of a REML fit beta, beta_se, g, sigma2,
# loglik, converged and notes; of a posterior beta (iteration, chain, p), g (iteration, chain, q, q),
# sigma2 (iteration, chain) and notes. `serve` does the rest.

REPEAT_BELOW <- 10 # seconds; a slower REML fit is not repeated
RHAT <- 1.01

write_terms <- function(columns) {
  others <- columns[columns != "Intercept"]
  paste(c(if ("Intercept" %in% columns) "1" else "0", others), collapse = " + ")
}

# The name that R gives to a plain column.
r_names <- function(columns) ifelse(columns == "Intercept", "(Intercept)", columns)

read_request <- function(text) {
  request <- jsonlite::fromJSON(text, simplifyMatrix = FALSE)
  request$blocks <- lapply(request$blocks, as.character)
  request$table <- read.csv(request$data)
  request$table[[request$group]] <- factor(request$table[[request$group]])
  request$fixed_formula <- as.formula(paste(request$response, "~", write_terms(request$fixed)))
  request
}

list_pairs <- function(blocks) {
  pairs <- lapply(blocks, function(block) {
    if (length(block) > 1) combn(block, 2, simplify = FALSE) else list()
  })
  do.call(c, c(pairs, list(list())))
}

name_parameters <- function(request) {
  words <- unlist(request$names)
  random <- words[unlist(request$blocks)]
  both <- vapply(list_pairs(request$blocks), function(pair) paste(words[pair], collapse = ","), "")
  of <- function(kind, what) if (length(what)) sprintf("%s(%s|%s)", kind, what, request$grouping)
  unname(c(
    words[request$fixed], of("var", random), of("cov", both), "var(Residual)",
    of("sd", random), of("corr", both), "sd(Residual)"
  ))
}

# Every parameter from beta (p), G (q, q) and sigma^2, in the order of name_parameters.
list_values <- function(request, beta, g, sigma2) {
  at <- lapply(list_pairs(request$blocks), match, request$random)
  cov <- vapply(at, function(pair) g[pair[1], pair[2]], 0)
  variance <- diag(g)
  scale <- vapply(at, function(pair) sqrt(variance[pair[1]] * variance[pair[2]]), 0)
  c(beta, variance, cov, sigma2, sqrt(variance), cov / scale, sqrt(sigma2))
}

# G (q, q) from covariance matrices with R's names, one for each term; zero between terms.
place <- function(covariances, request) {
  names <- r_names(request$random)
  g <- matrix(0, length(names), length(names))
  for (each in covariances) {
    at <- match(rownames(each), names)
    g[at, at] <- as.matrix(each)[seq_along(at), seq_along(at)]
  }
  g
}

summarise <- function(request, found) {
  if (length(dim(found$sigma2)) == 2) {
    flat <- vapply(seq_along(found$sigma2), function(k) {
      at <- arrayInd(k, dim(found$sigma2))
      g <- matrix(found$g[at[1], at[2], , ], length(request$random))
      list_values(request, found$beta[at[1], at[2], ], g, found$sigma2[k])
    }, numeric(length(name_parameters(request))))
    rhat <- apply(flat, 1, function(row) posterior::rhat(matrix(row, nrow(found$sigma2))))
    worst <- max(rhat, na.rm = TRUE)
    list(
      estimate = rowMeans(flat), se = apply(flat, 1, sd), loglik = NA, converged = worst <= RHAT,
      notes = c(found$notes, if (worst > RHAT) sprintf("R-hat %.3f", worst))
    )
  } else {
    estimate <- list_values(request, found$beta, found$g, found$sigma2)
    se <- rep(NA_real_, length(estimate))
    se[seq_along(found$beta_se)] <- found$beta_se
    list(
      estimate = estimate, se = se, loglik = found$loglik, converged = found$converged,
      notes = found$notes
    )
  }
}

answer <- function(request, package, fit) {
  elapsed <- function() proc.time()[["elapsed"]]
  start <- elapsed()
  found <- fit(request)
  seconds <- elapsed() - start
  if (request$method == "reml" && seconds < REPEAT_BELOW) {
    start <- elapsed()
    found <- fit(request)
    seconds <- elapsed() - start
  }
  summary <- summarise(request, found)
  number <- function(value) if (is.finite(value)) value else NA_real_
  estimates <- Map(
    function(a, b) list(estimate = number(a), se = number(b)), summary$estimate, summary$se
  )
  names(estimates) <- name_parameters(request)
  list(
    version = as.character(packageVersion(package)), seconds = seconds,
    loglik = number(as.numeric(summary$loglik)), estimates = estimates,
    converged = isTRUE(summary$converged), warnings = as.list(as.character(summary$notes))
  )
}

# Read a request from the path in the first argument or from stdin; print the answer.
serve <- function(program, package, fit) {
  if (!requireNamespace("jsonlite", quietly = TRUE)) {
    cat(sprintf('{"program": "%s", "missing": "jsonlite"}\n', program))
    return(invisible())
  }
  arguments <- commandArgs(trailingOnly = TRUE)
  path <- if (length(arguments)) arguments[1] else "stdin"
  stream <- file(path)
  request <- read_request(paste(readLines(stream, warn = FALSE), collapse = "\n"))
  close(stream)
  caught <- character()
  note <- function(condition, restart) {
    text <- gsub("\\s+", " ", conditionMessage(condition))
    caught <<- unique(c(caught, substr(text, 1, 300)))
    invokeRestart(restart)
  }
  said <- if (!requireNamespace(package, quietly = TRUE)) {
    list(missing = package)
  } else {
    tryCatch(
      withCallingHandlers(
        answer(request, package, fit),
        warning = function(w) note(w, "muffleWarning"),
        packageStartupMessage = function(m) invokeRestart("muffleMessage")
      ),
      error = function(e) {
        list(error = substr(gsub("\\s+", " ", conditionMessage(e)), 1, 300))
      }
    )
  }
  if (!is.null(said$warnings)) said$warnings <- c(said$warnings, as.list(caught))
  said <- c(list(program = program, variant = request$variant), said)
  json <- jsonlite::toJSON(said, auto_unbox = TRUE, digits = I(17), na = "null", null = "null")
  cat(as.character(json), "\n", sep = "")
}

# Draws of stan_lmer or brm (iteration, chain, parameter) as the contract has them.
#   fixed: the p names of beta; covariance(draws, i, j): G[i, j] (iteration, chain); sigma: a name.
arrange_draws <- function(request, draws, fixed, covariance, sigma, notes) {
  size <- dim(draws)[1:2]
  q <- length(request$random)
  g <- array(0, c(size, q, q))
  for (block in request$blocks) {
    for (i in match(block, request$random)) {
      for (j in match(block, request$random)) {
        g[, , i, j] <- covariance(draws, max(i, j), min(i, j))
      }
    }
  }
  beta <- array(draws[, , fixed], c(size, length(fixed)))
  list(beta = beta, g = g, sigma2 = matrix(draws[, , sigma]^2, size[1]), notes = notes)
}
