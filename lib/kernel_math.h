// SPDX-License-Identifier: GPL-3.0-or-later
//
// Formulas that the CPU's and the GPU's kernels share.
#pragma once

#include "random.h"

#include <cstddef>

namespace gr::unmix::element {

//! The mixture without the first `terms` sources at place i of a window.
UNMIX_HD float rest(float y, const float* x, const float* gains, std::size_t stride, std::size_t terms, std::size_t i)
{
    for (std::size_t k = 0; k < terms; ++k)
        y -= gains[k] * x[k * stride + i];
    return y;
}

//! alpha-RGS step of source value x towards its mean, against the pull of the last source's.
UNMIX_HD float descend(float x, float mean, float weight, float last, float last_mean, float last_pull, float rate)
{
    return x + rate * (weight * (mean - x) - last_pull * (last_mean - last));
}

} // namespace gr::unmix::element
