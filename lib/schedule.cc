// SPDX-License-Identifier: GPL-3.0-or-later
#include <gnuradio/unmix/schedule.h>

#include <cmath>
#include <numbers>
#include <stdexcept>

namespace gr::unmix {

noise_schedule::noise_schedule(double beta_min, double beta_max, int steps)
{
    if (!(beta_min > 0 && beta_min <= beta_max && beta_max < 1) || steps < 2)
        throw std::invalid_argument("a noise schedule needs 0 < beta_min <= beta_max < 1 and at least 2 steps");
    double product = 1;
    for (int t = 0; t < steps; ++t) {
        product *= 1 - (beta_min + (beta_max - beta_min) * t / (steps - 1));
        d_alpha_bar.push_back(product);
    }
}

double cosine_anneal(double first, double last, long step, long steps)
{
    return last + 0.5 * (first - last) * (1 + std::cos(std::numbers::pi * static_cast<double>(step) / steps));
}

} // namespace gr::unmix
