# JSON with 17 significant digits, which carry a double exactly; missing and infinite are null.

to_json <- function(x, indent = "") {
  if (is.null(x)) return("null")
  if (length(x) == 0) return("[]")
  if (is.matrix(x)) return(list_json(apply(x, 1, function(row) list_json(number_json(row)))))
  if (is.list(x) && is.null(names(x))) return(list_json(vapply(x, to_json, "", indent)))
  if (!is.list(x)) {
    values <- if (is.numeric(x)) number_json(x)
      else if (is.logical(x)) ifelse(is.na(x), "null", tolower(x))
      else text_json(x)
    return(if (length(x) == 1 && !inherits(x, "AsIs")) values else list_json(values))
  }
  deeper <- paste0(indent, " ")
  values <- vapply(x, to_json, "", deeper)
  leaf <- !any(grepl("\n", values, fixed = TRUE)) && sum(nchar(values)) < 300
  items <- paste0(text_json(names(x)), ": ", values)
  if (leaf && indent != "") return(paste0("{", paste(items, collapse = ", "), "}"))
  paste0("{\n", deeper, paste(items, collapse = paste0(",\n", deeper)), "\n", indent, "}")
}

list_json <- function(values) paste0("[", paste(values, collapse = ", "), "]")

number_json <- function(x) ifelse(is.finite(x), trimws(formatC(x, digits = 17, format = "g")), "null")

text_json <- function(x) encodeString(x, quote = "\"")
