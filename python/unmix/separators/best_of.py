# SPDX-License-Identifier: GPL-3.0-or-later
"""Best of n: run a random method several times and keep each window's best result (arXiv 2002.07942, section 5.1)."""

from dataclasses import replace
from typing import Callable, Optional

import numpy as np

from .common import MethodError, Outcome, Problem, Separation

#: The largest number of runs.
MOST_RESTARTS = 10**6

#: Gives each window a number, [W]: the smaller, the better the result.
Score = Callable[[Problem, Separation], np.ndarray]


def median_disagreement(problem: Problem, result: Separation) -> np.ndarray:
    """Median disagreement of each window, [W], without the blocks of the margins that will be thrown away.

    The mean is drawn to the symbols that a window's ends cut, and picks worse.
    """
    edge = problem.margin // problem.block
    blocks = result.disagreement.shape[1]
    kept = slice(edge, blocks - edge) if 2 * edge < blocks else slice(None)
    return np.median(result.disagreement[:, kept], axis=1)


def best_of(problem: Problem, method: Callable[..., Separation], n: int, steps: Optional[int] = None,
            score: Score = median_disagreement) -> Separation:
    """Run method(problem, steps=steps) n times with different seeds; keep each window's result of least score.

    n: 1 .. MOST_RESTARTS. The first run has the problem's own seed. The paper compares its samples by their prior
    probability; these priors give posterior means, no densities, so the default is how well the denoised sources
    explain the mixture. score: for other criteria, such as a likelihood where one is known. calls: the sum over all
    runs. A window is cancelled when not all of its runs were completed, and has the best result so far. Raises
    MethodError for other n, and what the method raises.
    """
    if not 1 <= n <= MOST_RESTARTS:
        raise MethodError(f"restarts={n} is impossible; allowed is 1 to {MOST_RESTARTS}")
    best, least, calls, complete = None, None, 0, 0
    for i in range(n):
        progress = None
        if problem.progress is not None:
            def progress(fraction, windows, i=i):
                return problem.progress((i + fraction) / n, windows if i == n - 1 else 0)
        # An odd constant visits every seed.
        result = method(replace(problem, seed=(problem.seed + i * 0x9E3779B97F4A7C15) % 2**64, progress=progress),
                        steps=steps)
        whole = ~np.isin(result.outcomes, (int(Outcome.UNTOUCHED), int(Outcome.CANCELLED)))
        found = np.where(whole & (result.outcomes != int(Outcome.DIVERGED)), score(problem, result), np.inf)
        calls, complete = calls + result.calls, complete + whole
        if best is None:
            best, least = result, found
        else:
            better = found < least
            best.sources[:, better] = result.sources[:, better]
            for name in ("gains", "disagreement", "outcomes"):
                getattr(best, name)[better] = getattr(result, name)[better]
            least = np.where(better, found, least)
        if not whole.all():
            break
    best.calls = calls.astype(np.int32)
    begun = best.outcomes != int(Outcome.UNTOUCHED)
    best.outcomes = np.where(begun & (complete < n), int(Outcome.CANCELLED), best.outcomes).astype(np.uint8)
    return best
