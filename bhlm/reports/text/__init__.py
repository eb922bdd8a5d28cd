"""Results as text: Stata-, HLM- and lme4-style output, the posterior, the reconciliation."""
