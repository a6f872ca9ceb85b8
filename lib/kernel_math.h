// SPDX-License-Identifier: GPL-3.0-or-later
//
// What the kernels do to one element; kernels_cpu.cc and kernels.cu only walk over the elements.
#pragma once

#include "kernels.h"
#include "random.h"

namespace gr::unmix::element {

//! The mixture without the first `terms` sources at place i of a window.
UNMIX_HD float rest(float y, const float* x, const float* gains, std::size_t stride, std::size_t terms, std::size_t i)
{
    for (std::size_t k = 0; k < terms; ++k)
        y -= gains[k] * x[k * stride + i];
    return y;
}

//! Four smoothed values from place on.
UNMIX_HD void smooth4(const float* x,
                      float signal,
                      float noise,
                      std::uint64_t seed,
                      std::uint64_t window,
                      std::uint32_t step,
                      std::uint32_t source,
                      std::uint32_t place,
                      float* out)
{
    const auto word = random::draw(seed, window, step, source, place);
    float z[4];
    random::normals(word.v[0], word.v[1], z[0], z[1]);
    random::normals(word.v[2], word.v[3], z[2], z[3]);
    for (int j = 0; j < 4; ++j)
        out[4 * place + j] = signal * x[4 * place + j] + noise * z[j];
}

//! alpha-RGS step of source value x towards its mean, against the pull of the last source's.
UNMIX_HD float descend(float x, float mean, float weight, float last, float last_mean, float last_pull, float rate)
{
    return x + rate * (weight * (mean - x) - last_pull * (last_mean - last));
}

} // namespace gr::unmix::element
