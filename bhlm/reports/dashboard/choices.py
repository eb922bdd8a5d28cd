"""What of a fit was chosen, and what is as nobody asked for it."""

from typing import TYPE_CHECKING, Any

from bhlm.bayes.priors.resolve import resolve_priors

if TYPE_CHECKING:
    from bhlm.bayes.draws import Posterior
    from bhlm.studies.imputations.pooled import Pooled


def find_default(fit: "Posterior") -> list[tuple[Any, Any]]:
    """Return each prior beside its default: fixed effects, SDs, sigma, the correlations."""
    default = resolve_priors(None, fit.moments, structure=fit.structure)
    pairs: list[tuple[Any, Any]] = list(zip(fit.priors.every, default.every, strict=True))
    corrs = zip(fit.structure.parts, fit.priors.corrs, default.corrs, strict=True)
    pairs += [(own, usual) for part, own, usual in corrs if part.has_correlations]
    return pairs


def is_moved(fit: "Posterior") -> bool:
    """Return whether the priors of the random part stand elsewhere than the defaults do."""
    return fit.priors.frame != resolve_priors(None, fit.moments, structure=fit.structure).frame


def count_groups(post: "Posterior") -> int:
    """Return the number of groups of a single factor; 0 of several."""
    found = getattr(post.moments, "n_groups", 0)
    return int(found)


def state_formula(pooled: "Pooled") -> str:
    """Return the formula with every response on its left."""
    formula = pooled.fits[0].moments.formula
    _, tilde, right = formula.partition("~")
    return f"{' + '.join(pooled.responses)} {tilde}{right}"
