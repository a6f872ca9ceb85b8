# SPDX-License-Identifier: GPL-3.0-or-later
"""Reverse diffusion of the interference, with the SOI for noise (arXiv 2306.14411, Appendix G)."""

from typing import Optional

import numpy as np

from .common import MethodError, Problem, Separation, in_batches

#: The smallest noise variance: in float32, abar = 1 - variance must be below 1.
LEAST_VARIANCE = 1e-7


def reverse_diffusion(problem: Problem, steps: Optional[int] = None, start: float = 0.005, end: float = 1e-4
                      ) -> Separation:
    """Take y / g_2 = x_2 + (g_1 / g_2) x_1 for noisy interference and denoise it by a short reverse diffusion.

    Ancestral sampling (DDPM, arXiv 2006.11239, equation (7)) of the interference's prior from sqrt(abar) y / g_2; the
    SOI, whose prior is not asked, is what the result leaves of the mixture. Only at low SIR is the SOI as weak as the
    noise that the chain begins with.

    steps: noise levels, one call of the interference's prior at each, 1 to 10^6 (default 10, the paper's). start, end:
    noise variance 1 - abar per real channel, at the first and the last level, in even steps between; LEAST_VARIANCE <=
    end <= start < 1 (defaults: the paper's, which it found by trials; its spacing is not given and matters little). The
    step from the last level has no noise. Raises MethodError for values out of range and for other than two sources.
    """
    if len(problem.priors) != 2:
        raise MethodError("reverse-diffusion separates two sources only: it takes one for noise on the other")
    steps = 10 if steps is None else steps
    if not 1 <= steps <= 10**6:
        raise MethodError(f"reverse-diffusion needs 1 to 1000000 steps, not {steps}")
    if not LEAST_VARIANCE <= end <= start < 1:
        raise MethodError(f"start={start}, end={end} is impossible; allowed are {LEAST_VARIANCE:g} <= end <= start < 1")
    level = 1 - np.linspace(start, end, steps)

    def method(part, go_on):
        y, gains = part.mixture, part.gains[:, :, None]
        x = y / gains[:, 1]
        x *= np.float32(level[0] ** 0.5)
        mean, done = x, 0
        for i, alpha_bar in enumerate(level):
            if not go_on(i / steps):
                break
            mean = part.denoise(1, x, alpha_bar)
            done = i + 1
            if done < steps:
                following = level[done]
                alpha = alpha_bar / following
                clean = following**0.5 * (1 - alpha) / (1 - alpha_bar)
                kept = alpha**0.5 * (1 - following) / (1 - alpha_bar)
                spread = ((1 - following) / (1 - alpha_bar) * (1 - alpha)) ** 0.5
                x *= np.float32(kept)
                x += np.float32(clean) * mean
                x += np.float32(spread) * part.noise(i, 1)
        return np.stack([(y - gains[:, 1] * mean) / gains[:, 0], mean]), done

    return in_batches(problem, method)
