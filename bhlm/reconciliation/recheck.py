"""Whether the draws that are compared are those that were diagnosed, and one set of draws.

What a fit says of its convergence was found when it was sampled. Draws that were changed since,
by hand, in a file or by another program, are judged as they are.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bhlm.bayes.convergence import diagnose_run
from bhlm.bayes.draws import Posterior
from bhlm.bayes.rounding import resolve_draws
from bhlm.likelihood.factor_names import name_factors
from bhlm.moments.cells import CellMoments
from bhlm.moments.level_patterns import LevelPatterns

Array = np.ndarray

# Of the SDs' product: what rounding leaves between covariances and the SDs that stand beside them.
SAME = 1e-6


def rejudge_draws(post: Posterior) -> Posterior:
    """Return the fit with what its draws fail by now, beside what they failed by when sampled."""
    fresh = replace(post)  # which has read off nothing yet
    if any(not np.array_equal(x, fresh.draws[name]) for name, x in post.draws.items()):
        post = fresh
    stats = post.data["sample_stats"].dataset
    found = diagnose_run(
        resolve_draws(post.moments, post.structure, post.draws, post.flat.root),
        {str(name): values.values for name, values in stats.items()},
        post.diagnostics.certificate,
        post.known,
    )
    known = post.diagnostics
    new = [failure for failure in found.failures if failure not in known.failures]
    if not new:
        return post
    failures = (*known.failures, *new)
    told = replace(found, ok=False, failures=failures, prior_bound=known.prior_bound)
    return replace(post, diagnostics=told)


def find_contradictions(post: Posterior) -> list[str]:
    """Return a sentence on the variables of the draws that are not those of the covariances' roots.

    SDs, correlations and covariances stand beside the roots that they are read off.
    """
    posterior, roots = post.data["posterior"].dataset, post.flat.root
    wrong = []
    for names, span in _list_variables(post):
        root = roots[:, span, span]
        g = root @ root.swapaxes(-1, -2)
        sd = np.sqrt(np.einsum("nii->ni", g))
        product = sd[:, :, None] * sd[:, None, :]
        corr = np.divide(g, product, out=np.zeros_like(g), where=product > 0.0)
        # Of an SD of zero there are no correlations.
        units = sd, np.where(product > 0.0, 1.0, 0.0), product
        for name, value, unit in zip(names, (sd, corr, g), units, strict=True):
            if name not in posterior:
                continue
            held = posterior[name].values.reshape(value.shape)
            known = np.isfinite(value) & (unit > 0.0)
            if not np.all(np.abs(held - value)[known] <= SAME * unit[known]):
                wrong.append(name)
    if not wrong:
        return []
    return [
        f"The draws contradict themselves: {' and '.join(wrong)} in post.data are not those of the "
        "roots of the covariances beside them, so that some of them were changed after sampling."
    ]


def _list_variables(post: Posterior) -> Iterator[tuple[tuple[str, str, str], slice]]:
    """Yield what SDs, correlations and covariances of each factor are called, and its rows in G."""
    if isinstance(post.moments, CellMoments | LevelPatterns):
        names = name_factors(post.moments)
        for name, span in zip(names, post.structure.spans, strict=True):
            yield (f"sd|{name}", f"corr|{name}", f"cov|{name}"), span
    else:
        yield ("sd", "corr", "G"), slice(0, post.structure.q)
