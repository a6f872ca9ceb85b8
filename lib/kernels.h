// SPDX-License-Identifier: GPL-3.0-or-later
//
// The elementwise parts of the separators, once for the CPU and once for CUDA. Waves are float planes [windows, n] with
// n = 2 * samples (real plane, then imaginary plane); sources lie `stride` floats apart.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gr::unmix {

struct kernel_shape {
    std::size_t windows; //!< in the batch
    std::size_t n;       //!< floats of a window: 2 * samples
    std::size_t sources; //!< K
    std::size_t stride;  //!< floats between two sources
};

#define UNMIX_KERNELS                                                                                                  \
    /* x[K - 1] = (y - sum_{k < K - 1} gains[., k] x[k]) / gains[., K - 1] */                                          \
    void last_source(const kernel_shape& s, const float* y, const float* gains, float* x);                             \
    /* out = sqrt(abar) x + sqrt(1 - abar) z, z counter-based */                                                       \
    void smooth(const kernel_shape& s, const float* x, const float* alpha_bar, std::uint64_t seed,                     \
                const std::uint64_t* index, std::uint32_t step, std::uint32_t source, float* out);                     \
    /* x[k] += rate * (w[k] (mean[k] - x[k]) - gains[k] / gains[K-1] w[K-1] (mean[K-1] - x[K-1])), k < K - 1;          \
       weights [K, windows]; finite[window] is NaN or infinite when a value of x is */                                 \
    void descend(const kernel_shape& s, const float* mean, const float* weights, const float* gains, float rate,       \
                 float* x, float* finite);                                                                             \
    /* result (the noise estimate) becomes (input - sqrt(1 - abar) result) / sqrt(abar) */                             \
    void mean_from_noise(const kernel_shape& s, const float* input, const float* alpha_bar, float* result);            \
    /* two sources: out = sqrt(abar) (y - gains[0] x) / gains[1] */                                                    \
    void dr_rest(const kernel_shape& s, const float* y, const float* x, const float* gains, const float* alpha_bar,    \
                 float* out);                                                                                          \
    /* p = (y - gains[1] b) / gains[0]; out = sqrt(abar) (2 p - x) */                                                  \
    void dr_reflect(const kernel_shape& s, const float* y, const float* b, const float* x, const float* gains,         \
                    const float* alpha_bar, float* p, float* out);                                                     \
    /* K sources: p[k] = x[k] + share[., k] (y - sum_j gains[j] x[j]); out[k] = sqrt(abar[k]) (2 p[k] - x[k]) */       \
    void dr_project(const kernel_shape& s, const float* y, const float* x, const float* gains, const float* share,     \
                    const float* alpha_bar, float* p, float* out);                                                     \
    /* x += relaxation (q - p) over `terms` sources */                                                                 \
    void dr_step(const kernel_shape& s, const float* q, const float* p, float relaxation, std::size_t terms, float* x, \
                 float* finite);                                                                                       \
    /* moments[window, k] = { Re <y - sum_{j != k} gains[j] q[j], q[k]>, |q[k]|^2 }, [windows, K, 2] */                \
    void gain_moments(const kernel_shape& s, const float* y, const float* q, const float* gains, float* moments);      \
    /* level[window, block]: mean of |y - sum_k gains[k] q[k]|^2 / gains[0]^2 within `radius` samples of the block's   \
       middle; blocks where it is below best[window, block] copy it there and their samples of q into keep */          \
    void keep_best(const kernel_shape& s, const float* y, const float* q, const float* gains, std::size_t block,       \
                   std::size_t radius, float* residual, float* best, float* keep);

namespace cpu {
UNMIX_KERNELS
}
namespace cuda {
UNMIX_KERNELS
}

#undef UNMIX_KERNELS

} // namespace gr::unmix
