// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <gnuradio/unmix/api.h>
#include <gnuradio/unmix/prior.h>

#include <atomic>
#include <complex>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace gr::unmix {

/*!
 * \brief Windows y = sum_k gain_k x_k (+ noise) of K >= 2 sources of unit power, to be taken apart.
 *
 * Source 0 is the signal of interest (SOI). All arrays are row-major and owned by the caller.
 */
struct mixtures {
    std::size_t windows = 0;
    std::size_t samples = 0;                      //!< of a window
    std::vector<std::shared_ptr<prior>> priors;   //!< K of them, all on one device
    const std::complex<float>* mixture = nullptr; //!< [windows, samples]
    const std::complex<float>* initial = nullptr; //!< [K, windows, samples], first estimates of the sources
    const float* gains = nullptr;                 //!< [windows, K], amplitudes > 0
    std::vector<const float*> side;               //!< per source [windows, side_width], null for none
    std::vector<std::size_t> side_width;          //!< per source
    const float* noise = nullptr;                 //!< [windows], variance of complex noise in y; null for none
    const std::uint64_t* index = nullptr;         //!< [windows], the windows' own numbers, for their random numbers
};

//! How a window ended.
enum class outcome : std::uint8_t {
    untouched = 0,  //!< cancelled before it was begun
    cancelled = 1,  //!< cancelled half-way; its result is the best so far
    steps_used = 2, //!< all steps done (for Douglas-Rachford: without reaching agreement everywhere)
    agreed = 3,     //!< Douglas-Rachford: both estimates explain the mixture everywhere
    diverged = 4    //!< a value became infinite or NaN; its result is zero
};

struct separation {
    std::vector<std::complex<float>> sources; //!< [K, windows, samples], unit-power estimates
    std::vector<float> gains;                 //!< [windows, K]; re-estimated where the method does so
    //! [windows, blocks]: mean |y - sum_k gain_k x_k|^2 around each block of `block` samples, in units of the SOI's
    //! power
    std::vector<float> disagreement;
    std::size_t blocks = 0;
    std::vector<std::int32_t> calls; //!< [windows], calls of each source's prior
    std::vector<outcome> outcomes;   //!< [windows]
};

//! Called about ten times a second from the calling thread; returning false cancels.
using progress_callback = std::function<bool(double fraction_done, std::size_t windows_done)>;

struct control {
    std::uint64_t seed = 0;
    std::size_t batch = 64;  //!< windows worked on at a time, over all threads
    std::size_t threads = 0; //!< on the CPU; 0: as many as torch uses
    std::size_t block = 16;  //!< samples per block of the disagreement: a symbol of the SOI
    progress_callback progress;
    const std::atomic<bool>* cancel = nullptr; //!< looked at in every step
};

//! Options of alpha_rgs; the defaults are the paper's for OFDM interference.
struct alpha_rgs_options {
    long steps = 20000;        //!< >= 1
    double rate_max = 5e-3;    //!< learning rate, cosine-annealed from rate_max ...
    double rate_min = 1e-6;    //!< ... to rate_min
    std::vector<double> omega; //!< weight of each source's term, K values; empty: gain_k^2
    int level_min = 1;         //!< noise levels are drawn from level_min .. level_max
    int level_max = 49;
    int level_max_last = 49; //!< level_max moves linearly to this over the run; 3 halves the errors of short runs
    double weight_cap = 0;   //!< > 0: a step never pulls further than this fraction towards the posterior mean; 0: no cap
    bool equal_levels = false; //!< one noise level for all sources in a step, instead of one each
};

//! Options of pnp_dr.
struct pnp_dr_options {
    int steps = 100;          //!< largest number of calls, >= 1
    std::vector<double> v;    //!< denoising variance per real channel, per source; empty: 0.03, or the noise's if above
    double relaxation = 1.0;  //!< 0 < relaxation < 2
    double agreement = 0.01;  //!< a block is solved when its disagreement, less the noise, is below this
    bool refine_gains = true; //!< re-estimate the interference's gains in every call
    std::size_t margin = 0;   //!< samples at each end of the window that need not agree: overlapped windows drop them
};

/*!
 * \brief alpha-RGS: Algorithm 1 of arXiv 2306.14411 with the sign of its equation (10), for K sources.
 *
 * The last source is tied to the others by the mixture. Noise is drawn from counters (seed, window's index, step), so
 * that the result does not depend on the batch. Throws std::invalid_argument for impossible arguments.
 */
UNMIX_API separation alpha_rgs(const mixtures& input, const alpha_rgs_options& options, const control& ctl);

/*!
 * \brief Disagreement below which a block counts as solved, relative to the SOI's power.
 *
 * `agreement` plus what noise leaves unexplained in any case: the window's median disagreement, as far as noise of the
 * given variance (relative to the SOI), or 0.02 where that is larger, can be the cause.
 */
UNMIX_API double agreement_threshold(double agreement, double median_disagreement, double noise);

/*!
 * \brief Plug-and-play Douglas-Rachford splitting with the posterior means of the sources as proximal steps.
 *
 * For two sources p = y - g D_b((y - x) / g), q = D_s(2 p - x), x += q - p; for more the product form, projecting on
 * sum_k gain_k x_k = y. Each block keeps the iterate with the smallest disagreement; a window ends when all agree.
 * Throws std::invalid_argument for impossible arguments.
 */
UNMIX_API separation pnp_dr(const mixtures& input, const pnp_dr_options& options, const control& ctl);

} // namespace gr::unmix
