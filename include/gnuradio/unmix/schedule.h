// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <gnuradio/unmix/api.h>

#include <vector>

namespace gr::unmix {

/*!
 * \brief Noise levels of the Gaussian smoothing model, x_t = sqrt(abar_t) x + sqrt(1 - abar_t) z.
 *
 * abar_t = prod_{i <= t} (1 - beta_i), beta linearly spaced. The defaults are those of arXiv 2306.14411: 1 - abar runs
 * from 1e-4 (t = 0) to 0.72 (t = 49). z ~ N(0, 1) per real channel, that is complex variance 2.
 */
class UNMIX_API noise_schedule
{
public:
    //! Throws std::invalid_argument unless 0 < beta_min <= beta_max < 1 and steps >= 2.
    explicit noise_schedule(double beta_min = 1e-4, double beta_max = 0.05, int steps = 50);

    int steps() const { return static_cast<int>(d_alpha_bar.size()); }

    //! abar of level t, 0 <= t < steps(); throws std::out_of_range otherwise.
    double alpha_bar(int t) const { return d_alpha_bar.at(t); }

private:
    std::vector<double> d_alpha_bar;
};

//! Cosine annealing from first (step 0) towards last (step steps): the paper's learning rate. steps >= 1.
UNMIX_API double cosine_anneal(double first, double last, long step, long steps);

} // namespace gr::unmix
