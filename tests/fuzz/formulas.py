"""Random formulas, a third of them damaged, over one table."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tests.fuzz.routes import compile_fits, fit_route, is_same, write_routes

# No two differ in case only: DuckDB calls the second of them otherwise.
COLUMNS = ("y", "x", "z", "f", "b", "k", "g", "my col", "var(x|g)", "sigma", "Intercept")
PIECES = (
    *("cwc({})", "gm({})", "cgm({})", "log({})", "sqrt({})", "exp({})", "I({}**2)", "I({} - {})"),
    *("C({})", "poly({}, 2)", "poly({}, 2, raw=True)", "scale({})", "{}:{}", "{}*{}", "{}/{}"),
    *(
        "({} + {})**2",
        "0 + {}",
        "{} - 1",
        "-{}",
        "2",
        "{} | g",
        "C({}, Treatment('a'))",
        "np.log({})",
    ),
    *(
        "cwc(gm({}))",
        "gm(I({} * {}))",
        "open('{}')",
        "{}.real",
        "`{}`",
        "{}[0]",
        "'{}'",
        "{} {}",
        "1",
    ),
)
NOISE = (*"()+-*/:|~^,.`'\"%&=<>[]{}#@!? \t\n\\0", "||", "**", "é", "\u200b", "∞", "1e999")


def random_formula(rng: np.random.Generator) -> str:
    """Return a formula, of which a third is damaged."""

    def column() -> str:
        name = str(rng.choice(COLUMNS))
        return name if name.isidentifier() else f"`{name}`"

    def piece() -> str:
        if rng.random() < 0.4:
            return column()
        text = str(rng.choice(PIECES))
        return text.format(*(column() for _ in range(text.count("{}"))))

    fixed = " + ".join(piece() for _ in range(rng.integers(1, 4)))
    inner = " + ".join(piece() for _ in range(rng.integers(1, 3)))
    bar, group = rng.choice(["|", "||"], p=[0.7, 0.3]), column() if rng.random() < 0.2 else "g"
    random = f"({inner if rng.random() < 0.5 else 1} {bar} {group})"
    text = f"{'y' if rng.random() < 0.8 else piece()} ~ {fixed} + {random}"
    while rng.random() < 0.3:
        at = int(rng.integers(0, len(text) + 1))
        text = text[:at] + str(rng.choice(NOISE)) + text[at + int(rng.integers(0, 3)) :]
    return text


def try_formulas(numbers: range) -> Iterator[str]:
    """Yield what is wrong with random formulas, or differs between pandas and some other route."""
    compile_fits()
    rng = np.random.default_rng(1)
    n = 60
    table = pd.DataFrame({name: rng.normal(size=n) for name in COLUMNS}).assign(
        g=np.arange(n) % 10, f=np.array(["a", "b", "c"])[np.arange(n) % 3], b=rng.random(n) < 0.5,
        k=np.arange(n) % 4,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        routes = write_routes(table, Path(folder))
        others = [name for name in routes if name != "pandas"]
        for number in numbers:
            formula = random_formula(np.random.default_rng([1, number]))
            route = others[number % len(others)]
            expected, wrong = fit_route(formula, routes["pandas"])
            if wrong:
                yield f"formula {number}, {formula!r}: {wrong}"
                continue
            found, wrong = fit_route(formula, routes[route])
            if not wrong and not is_same(expected, found):
                wrong = f"{found}, pandas {expected}"
            if wrong:
                yield f"formula {number}, {formula!r}: {route}: {wrong}"
