"""Prints a digest of every number that each gallery model is fitted to.

    python comparisons/digests.py [MODEL ...] > before.txt

One line per model and answer: the first 16 hexadecimal digits of the SHA-256 sum of the bytes of
the REML and ML estimates, standard errors and log-likelihood, and of all parameters' draws and
effects by `sample(seed=1)`, which models of several grouping columns do without. Models with
weights, strata, known variances or plausible values are left out. Two versions of the package that
print the same lines on one machine give the same numbers, to the last bit.
"""

import hashlib
import sys

import numpy as np

import bhlm


def digest(*arrays: object) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return whole.hexdigest()[:16]


def main(names: list[str]) -> None:
    for entry in bhlm.list_models():
        if (names and entry.name not in names) or not (entry.is_gaussian and entry.is_plain):
            continue
        table = (
            bhlm.load_dataset(entry.dataset) if entry.dataset else bhlm.open_table(entry.data_path)
        )
        model = bhlm.Model(entry.formula, table)
        for method in ("reml", "ml"):
            fit = model.reml(method=method, covariance=entry.covariance)
            numbers = digest(fit.estimates["estimate"], fit.estimates["se"], fit.loglik)
            print(f"{entry.name:32} {method:6} {numbers}", flush=True)
        if model.cells is not None:
            continue
        post = model.sample(seed=1, covariance=entry.covariance)
        effects = post.group_effects()
        numbers = digest(*post.draws.values(), effects["mean"], effects["sd"])
        print(f"{entry.name:32} draws  {numbers}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
